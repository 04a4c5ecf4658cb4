"""Parse: a plain Python function -> a checked syntax tree, once per formula.

Everything outside the language is refused here with file, line and caret, before any number is
computed. What the six sentences of the language allow is documented in docs/formulas.md.
"""

import ast
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, NoReturn

from steepest.errors import FormulaError
from steepest.formula.kinds import ELEMENT, KNOWN, MASK, NONE, SIGNS, UNSET, Env, Kinds, none_test
from steepest.formula.shapes import HOST, NUMBER, TOTAL, infer
from steepest.formula.source import Source

REQUIRED = object()
"""The default of a hyperparameter that has none."""


@dataclass(frozen=True, eq=False)
class Formula:
    """A checked formula: its signature and its body, ready to be planned.

    `states` are named by torch's keys, `hyperparameters` map names to defaults (`REQUIRED` where
    there is none), `counts` tells whether it takes `step`, `tested` which states it tests for
    `None`, `words` which word each called name stands for, `shapes` how large each name's value is
    (shapes.py), `numbers` the states that are one number of the host for each parameter.
    """

    function: FunctionType
    name: str
    states: tuple[str, ...]
    hyperparameters: dict[str, Any]
    counts: bool
    tested: frozenset[str]
    words: Mapping[str, str]
    shapes: Mapping[str, str]
    body: tuple[ast.stmt, ...]
    source: str
    plans: list[Any] = field(default_factory=list)

    @functools.cached_property
    def numbers(self) -> frozenset[str]:
        """The states that are one number of the host for each parameter."""
        return frozenset(s for s in self.states if self.shapes[s] in (HOST, TOTAL))

    @functools.cached_property
    def shared(self) -> frozenset[str]:
        """Those of them that rest on a total, and so are the same for all parameters."""
        return frozenset(s for s in self.states if self.shapes[s] == TOTAL)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself, on numbers or tensors: the reference."""
        return self.function(*args, **kwargs)


def parse(function: Callable) -> Formula:
    """Check a formula and return it ready to be planned.

    Raises:
        FormulaError: the function leaves the language; the message shows where, and what to write.
    """
    if not isinstance(function, FunctionType) or function.__name__ == "<lambda>":
        raise FormulaError(
            f"a formula is a function written with `def`, not {function!r}; "
            "write `def rule(p, g, ..., *, lr): ...`"
        )
    return _Checker(Source(function)).formula()


class _Checker:
    """Reads one function from top to bottom, knowing what each name may hold."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.node = source.node
        self.refuse = source.refuse
        if isinstance(self.node, ast.AsyncFunctionDef):
            self.refuse(self.node, "a formula is a plain function", "write `def` alone")
        self.states, keywords = self._signature()
        self.kinds = Kinds(source, self.states)
        for arg in ast.walk(self.node.args):
            if isinstance(arg, ast.arg):
                self._may_name(arg, arg.arg)
        defaults = source.function.__kwdefaults__ or {}
        self.counts = "step" in keywords
        self.hyperparameters = {k: defaults.get(k, REQUIRED) for k in keywords if k != "step"}
        self.shapes = infer(self.node.body, self.states, self.kinds.makes)
        self.tested = {s for node in ast.walk(self.node) if (s := none_test(node)) in self.states}

    # ---- the whole function -------------------------------------------------------------------

    def formula(self) -> Formula:
        body = self.node.body
        if ast.get_docstring(self.node, clean=False) is not None:
            body = body[1:]
        if not body or not isinstance(body[-1], ast.Return):
            self.refuse(
                body[-1] if body else self.node,
                "a formula ends with one `return` of p and the states",
                f"end it with `return {', '.join(('p', *self.states))}`",
            )
        env = self._block(body[:-1], self._arguments())
        self._return(body[-1], env)
        return Formula(
            function=self.source.function,
            name=self.node.name,
            states=self.states,
            hyperparameters=self.hyperparameters,
            counts=self.counts,
            tested=frozenset(self.tested),
            words=self.kinds.words,
            shapes=self.shapes,
            body=tuple(body),
            source=self.source.text(),
        )

    # ---- arguments ----------------------------------------------------------------------------

    def _signature(self) -> tuple[tuple[str, ...], list[str]]:
        """Return the names of the states and of the keywords."""
        a = self.node.args
        for extra, star in ((a.vararg, "*"), (a.kwarg, "**")):
            if extra is not None:
                self.refuse(
                    extra,
                    f"a formula may not take `{star}{extra.arg}`",
                    "name every state before `*` and every hyperparameter after it",
                )
        names = [arg.arg for arg in (*a.posonlyargs, *a.args)]
        if names[:2] != ["p", "g"]:
            self.refuse(
                self.node,
                "a formula's first two arguments are `p` (parameter) and `g` (gradient)",
                f"write `def {self.node.name}(p, g, ..., *, lr)`",
            )
        if a.defaults:
            self.refuse(
                a.defaults[0],
                "p, g and the states take no default: a hyperparameter is keyword-only",
                "write the hyperparameters behind `*`",
            )
        if "step" in names:
            self.refuse(
                [*a.posonlyargs, *a.args][names.index("step")],
                "`step` is the count of updates, not a state",
                "write it behind `*`",
            )
        return tuple(names[2:]), [arg.arg for arg in a.kwonlyargs]

    def _may_name(self, node: ast.AST, name: str) -> None:
        """Refuse an argument or a variable that hides a word, or a name of the kernel's own."""
        if name in KNOWN or name == "range" or self.kinds.word(name) is not None:
            self.refuse(node, f"a formula may not give `{name}` a new meaning", "take another name")
        if name.startswith("_") and name != "_":
            self.refuse(node, "names that begin with `_` are the kernel's", "take another name")

    def _arguments(self) -> Env:
        """Return what the arguments may hold before the first line."""
        element, host = frozenset({ELEMENT}), frozenset({HOST})
        env: Env = dict.fromkeys(("p", "g"), element)
        for state in self.states:
            kind = self.shapes[state] if self.shapes[state] in (HOST, TOTAL) else ELEMENT
            there = frozenset({HOST if kind == TOTAL else kind})
            env[state] = there | {NONE} if state in self.tested else there
        env |= dict.fromkeys(self.hyperparameters, host)
        return env | {"step": host} if self.counts else env

    # ---- statements ---------------------------------------------------------------------------

    def _block(self, statements: list[ast.stmt], env: Env) -> Env:
        for statement in statements:
            env = self._statement(statement, env)
        return env

    def _statement(self, node: ast.stmt, env: Env) -> Env:
        match node:
            case ast.Assign(targets=[ast.Name(id=name) as target]):
                self._may_assign(target)
                return env | {name: frozenset({self.kinds.kind(node.value, env)})}
            case ast.Assign(targets=[ast.Tuple(elts=targets)]):
                return self._unpack(node, targets, env)
            case ast.If(test=test):
                self.kinds.condition(test, env)
                yes = self._block(node.body, _refined(test, True, env))
                no = self._block(node.orelse, _refined(test, False, env))
                unset = frozenset({UNSET})
                return {name: yes.get(name, unset) | no.get(name, unset) for name in yes | no}
            case ast.Pass():
                return env
        self._outside(node)

    def _may_assign(self, target: ast.Name) -> None:
        self._may_name(target, target.id)
        if target.id == "step":
            self.refuse(target, "a formula may not change `step`", "take another name")

    def _unpack(self, node: ast.Assign, targets: list[ast.expr], env: Env) -> Env:
        if not isinstance(node.value, ast.Name) or self.kinds.kind(node.value, env) != HOST:
            self.refuse(
                node,
                "only a hyperparameter can be unpacked (`beta1, beta2 = betas`)",
                "assign one name in a line",
            )
        for target in targets:
            if not isinstance(target, ast.Name):
                self.refuse(target, "a hyperparameter unpacks into plain names", "name each part")
            self._may_assign(target)
            env = env | {target.id: frozenset({HOST})}
        return env

    def _outside(self, node: ast.stmt) -> NoReturn:
        """Refuse a statement that the language does not have."""
        rule = f"a formula may not contain `{ast.unparse(node).split()[0]}`"
        instead = "use assignments, `if` on hyperparameters and one `return`"
        match node:
            case ast.Return():
                rule, instead = "a formula returns once, at its end", "use `if` without `return`"
            case ast.Assign():
                rule, instead = "a formula assigns to one name in a line", "write `name = ...`"
            case ast.AugAssign(op=op):
                rule = f"a formula may not change a value in place (`{SIGNS[type(op)]}=`)"
                name = ast.unparse(node.target)
                instead = f"write `{name} = {name} {SIGNS[type(op)]} ...`"
            case ast.AnnAssign():
                rule, instead = "a formula's variables carry no annotations", "leave it out"
            case ast.For() | ast.While() | ast.AsyncFor():
                rule = "a formula may not loop: it is one element's update"
                instead = "write the update of one element; the kernel loops over them"
            case ast.Expr(value=value):
                rule = f"a formula may not contain `{ast.unparse(value)}`"
        self.refuse(node, rule, instead)

    def _return(self, node: ast.stmt, env: Env) -> None:
        assert isinstance(node, ast.Return)
        due = ("p", *self.states)
        value = node.value
        given = value.elts if isinstance(value, ast.Tuple) else [value] if value else []
        if len(given) != len(due):
            self.refuse(
                node,
                f"a formula returns p and every state, in order: {', '.join(due)}; "
                f"this returns {len(given)} of {len(due)}",
                f"write `return {', '.join(due)}`",
            )
        for name, item in zip(due, given, strict=True):
            self._returned(name, item, due, env)

    def _returned(self, name: str, item: ast.expr, due: tuple[str, ...], env: Env) -> None:
        """Check what is returned as the new value of `name`."""
        if isinstance(item, ast.Name) and item.id == name:
            if env[name] == {NONE}:
                return  # a state that is never made
            env = env | {name: env[name] - {NONE}}  # one that is not there yet stays so
        elif isinstance(item, ast.Name) and item.id in due:
            self.refuse(
                item,
                f"`{item.id}` is returned where `{name}` is due",
                f"write `return {', '.join(due)}`",
            )
        kind = self.kinds.kind(item, env)
        if self.shapes.get(name) in (HOST, TOTAL) and kind in (HOST, TOTAL):
            return
        if self.shapes.get(name) == NUMBER:
            self.refuse(
                item,
                f"the state `{name}` is one number that a whole tensor gives (norm, mean)",
                "keep a state of elements, or a total",
            )
        if kind != ELEMENT:
            what = "a comparison" if kind == MASK else "a value of the host"
            self.refuse(
                item,
                f"`{name}` must be computed from elements, this is {what}",
                "keep what depends on hyperparameters alone out of p and the states",
            )


def _refined(test: ast.expr, truth: bool, env: Env) -> Env:
    """Narrow what a name may hold by what a decision has told of it."""
    match test:
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return _refined(operand, not truth, env)
        case ast.BoolOp(op=op, values=values) if isinstance(op, ast.And) is truth:
            for value in values:
                env = _refined(value, truth, env)
        case ast.Compare(ops=[op]) if (name := none_test(test)) is not None:
            absent = isinstance(op, ast.Is) is truth
            there = env[name] - {NONE} or env[name]
            return env | {name: frozenset({NONE}) if absent else there}
    return env
