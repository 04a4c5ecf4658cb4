"""Host: what a plan computes once per step in float64, as a function that is being written.

Its lines are run as they are written, with the values of the moment, so that an `if` can be
answered and a mistake is told at once.
"""

import ast
import math
from collections.abc import Callable, Mapping
from typing import Any

from steepest.errors import HyperparameterError
from steepest.formula.stages import names
from steepest.formula.whole import FACTS
from steepest.formula.words import WORDS, inverse

SCOPE: dict[str, Any] = {
    **WORDS, **FACTS, "_inverse": inverse, "_unknown": math.nan, "__builtins__": {}
}  # fmt: skip
"""What its lines may call."""

TAKE_P = "_p = _own['p']"


class Host:
    """The lines of one host function, and the values that they have now.

    Attributes:
        now: the value of each name, at the step that is being planned.
        slots: the scalars that kernels take, by their source.
        objects: what torch's words are handed as it is, by its source.
        after: for a value that rests on totals, on which.
    """

    def __init__(self, name: str, group: Mapping[str, Any], step: int, p: Any) -> None:
        self.name = name
        self.group = group
        self.lines: list[str] = []
        self.now: dict[str, Any] = {"step": step, "_p": p}
        self.slots: dict[str, str] = {}
        self.objects: dict[str, str] = {}
        self.after: dict[str, frozenset[str]] = {}
        for word, value in group.items():
            self.lines.append(f"{word} = _group[{word!r}]")
            self.now[word] = value

    @property
    def shaped(self) -> bool:
        """Whether it asks for the shape of the parameter."""
        return self.lines[:1] == [TAKE_P]

    def ask_for_shape(self) -> None:
        """Take the parameter, of which facts are asked."""
        if not self.shaped:
            self.lines.insert(0, TAKE_P)

    def give(self, name: str, value: Any, default: str = "0.0") -> None:
        """Take a number by name from what the function is given besides."""
        self.lines.append(f"{name} = _own.get({name!r}, {default})")
        self.now[name] = value

    def assign(self, target: str, source: str) -> None:
        """Compute a value, or unpack several."""
        line = f"{target} = {source}"
        self.lines.append(line)
        self._note_totals(target, source)
        try:
            exec(line, SCOPE, self.now)
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise self._not_computed(line, error) from error

    def decide(self, test: ast.expr) -> bool:
        """Answer a condition, and have the function check the answer at every step."""
        source = ast.unparse(test)
        answer = bool(self.value(source))
        if names(test):  # else it asks of states alone, which `absent` settles
            self.lines.append(f"if {f'not ({source})' if answer else source}: return None")
        return answer

    def slot(self, source: str, fresh: Callable[[str], str]) -> str:
        """Return the name of a scalar that kernels take; there is one for each source."""
        if source not in self.slots:
            self.check_number(source)
            name = self.slots[source] = fresh("s")
            self.lines.append(f"{name} = {source}")
            self._note_totals(name, source)
        return self.slots[source]

    def object(self, source: str, fresh: Callable[[str], str]) -> str:
        """Return the name of what torch's words are handed as it is."""
        if source not in self.objects:
            name = self.objects[source] = fresh("o")
            self.lines.append(f"{name} = {source}")
        return self.objects[source]

    def source(self, numbers: Mapping[str, str]) -> str:
        """Return the whole function, which begins its result with the states of one number."""
        values = [*numbers.values(), *self.slots.values(), *self.objects.values()]
        body = [*self.lines, f"return ({', '.join(values)}{',' * (len(values) == 1)})"]
        return "def host(_group, step, _own={}):\n" + "".join(f"    {line}\n" for line in body)

    def compiled(self, source: str) -> Callable[..., tuple[Any, ...] | None]:
        """Return the function of a source."""
        scope = dict(SCOPE)
        exec(compile(source, f"<host of {self.name}>", "exec"), scope)
        return scope["host"]

    # ---- values of this moment ----------------------------------------------------------------

    def value(self, source: str) -> Any:
        """Evaluate an expression with the values of this moment."""
        try:
            return eval(source, SCOPE, self.now)
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise self._not_computed(source, error) from error

    def check_number(self, source: str) -> None:
        """Refuse what is not one real number, where an element is to meet it."""
        value = self.value(source)
        try:
            math.isnan(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise HyperparameterError(
                f"{self.name}: `{source}` meets an element, so it must be one real number, "
                f"not {value!r}"
            ) from None

    def _not_computed(self, source: str, error: Exception) -> HyperparameterError:
        given = ", ".join(f"{name}={value!r}" for name, value in self.group.items())
        return HyperparameterError(
            f"{self.name}: `{source}` cannot be computed from the hyperparameters ({given}): "
            f"{error}"
        )

    def _note_totals(self, target: str, source: str) -> None:
        rests = [self.after[n] for n in names(ast.parse(source)) if n in self.after]
        if rests:
            self.after[target] = frozenset().union(*rests)
