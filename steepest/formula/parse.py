"""Parse: a plain Python function -> a checked syntax tree, once per formula.

Everything outside the language is refused here with file, line and caret, before any number is
computed. What the six sentences of the language allow is documented in docs/formulas.md.
"""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from steepest.errors import FormulaError
from steepest.formula.kinds import ELEMENT, HOST, MASK, NONE, SIGNS, UNSET, Env, Kinds, none_test
from steepest.formula.source import Source

REQUIRED = object()
"""The default of a hyperparameter that has none."""


@dataclass(frozen=True, eq=False)
class Formula:
    """A checked formula: its signature and its body, ready to be planned.

    `states` are named by torch's keys, `hyperparameters` map names to defaults (`REQUIRED` where
    there is none), `counts` tells whether it takes `step`, `tested` which states it tests for
    `None`, `words` which word each called name stands for.
    """

    function: FunctionType
    name: str
    states: tuple[str, ...]
    hyperparameters: dict[str, Any]
    counts: bool
    tested: frozenset[str]
    words: Mapping[str, str]
    body: tuple[ast.stmt, ...]
    source: str
    plans: list[Any] = field(default_factory=list)

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
        self.states, self.hyperparameters, self.counts = self._signature()
        self.kinds = Kinds(source, self.states)
        self.tested = {state for state in self.states if self._is_tested(state)}

    # ---- the whole function -------------------------------------------------------------------

    def formula(self) -> Formula:
        env: Env = {"p": frozenset({ELEMENT}), "g": frozenset({ELEMENT})}
        env |= {name: frozenset({HOST}) for name in self.hyperparameters}
        if self.counts:
            env["step"] = frozenset({HOST})
        body = self.node.body
        if ast.get_docstring(self.node, clean=False) is not None:
            body = body[1:]
        tested = {s: frozenset({ELEMENT, NONE}) for s in self.tested}
        env |= {s: frozenset({ELEMENT}) for s in self.states} | tested
        if not body or not isinstance(body[-1], ast.Return):
            self.refuse(
                body[-1] if body else self.node,
                "a formula ends with one `return` of p and the states",
                f"end it with `return {', '.join(('p', *self.states))}`",
            )
        env = self._block(body[:-1], env)
        self._return(body[-1], env)
        return Formula(
            function=self.source.function,
            name=self.node.name,
            states=self.states,
            hyperparameters=self.hyperparameters,
            counts=self.counts,
            tested=frozenset(self.tested),
            words=self.kinds.words,
            body=tuple(body),
            source=self.source.text(),
        )

    def _signature(self) -> tuple[tuple[str, ...], dict[str, Any], bool]:
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
        keywords = [arg.arg for arg in a.kwonlyargs]
        defaults = self.source.function.__kwdefaults__ or {}
        hyper = {name: defaults.get(name, REQUIRED) for name in keywords if name != "step"}
        return tuple(names[2:]), hyper, "step" in keywords

    def _is_tested(self, state: str) -> bool:
        return any(
            isinstance(node, ast.Compare) and none_test(node) == state
            for node in ast.walk(self.node)
        )

    # ---- statements ---------------------------------------------------------------------------

    def _block(self, statements: list[ast.stmt], env: Env) -> Env:
        for statement in statements:
            env = self._statement(statement, env)
        return env

    def _statement(self, node: ast.stmt, env: Env) -> Env:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]):
                self._may_assign(node.targets[0], name)
                return env | {name: frozenset({self.kinds.kind(node.value, env)})}
            case ast.Assign(targets=[ast.Tuple(elts=targets)]):
                return self._unpack(node, targets, env)
            case ast.If():
                return self._if(node, env)
            case ast.Pass():
                return env
            case ast.Return():
                self.refuse(node, "a formula returns once, at its end", "use `if` without `return`")
            case ast.AugAssign(target=ast.Name(id=name), op=op):
                sign = SIGNS.get(type(op), "+")
                self.refuse(
                    node,
                    f"a formula may not change a tensor in place (`{sign}=`)",
                    f"write `{name} = {name} {sign} ...`",
                )
            case ast.AnnAssign():
                self.refuse(node, "a formula's names carry no annotations", "leave it out")
            case ast.For() | ast.While() | ast.AsyncFor():
                self.refuse(
                    node,
                    "a formula may not loop: it is one element's update",
                    "write the update of one element; the kernel loops over them",
                )
        self.refuse(
            node,
            f"a formula may not contain `{ast.unparse(node).split()[0]}`",
            "use assignments, `if` on hyperparameters and one `return`",
        )

    def _may_assign(self, node: ast.AST, name: str) -> None:
        if name == "step" or self.kinds.word(name) is not None:
            self.refuse(node, f"a formula may not give `{name}` a new meaning", "take another name")

    def _unpack(self, node: ast.Assign, targets: list[ast.expr], env: Env) -> Env:
        if isinstance(node.value, ast.Tuple) or self.kinds.kind(node.value, env) != HOST:
            self.refuse(
                node,
                "only a hyperparameter can be unpacked (`beta1, beta2 = betas`)",
                "assign one name in a line",
            )
        for target in targets:
            if not isinstance(target, ast.Name):
                self.refuse(target, "a hyperparameter unpacks into plain names", "name each part")
            self._may_assign(target, target.id)
            env = env | {target.id: frozenset({HOST})}
        return env

    def _if(self, node: ast.If, env: Env) -> Env:
        self.kinds.condition(node.test, env)
        yes = self._block(node.body, _refine(node.test, True, env))
        no = self._block(node.orelse, _refine(node.test, False, env))
        return {
            name: yes.get(name, frozenset()) | no.get(name, frozenset())
            | (frozenset() if name in yes and name in no else frozenset({UNSET}))
            for name in yes | no
        }  # fmt: skip

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
            if isinstance(item, ast.Name) and item.id in due and item.id != name:
                self.refuse(
                    item,
                    f"`{item.id}` is returned where `{name}` is due",
                    f"write `return {', '.join(due)}`",
                )
            if isinstance(item, ast.Name) and name in self.tested and item.id == name:
                kinds = env[name] - {NONE}  # a state that is not there stays so
            else:
                kinds = frozenset({self.kinds.kind(item, env)})
            if kinds - {ELEMENT}:
                self.refuse(
                    item,
                    f"`{name}` must be computed from elements, this is {_spoken(kinds)}",
                    "keep what depends on hyperparameters alone out of p and the states",
                )


def _refine(test: ast.expr, truth: bool, env: Env) -> Env:
    """Narrow what a state may hold by what a decision has told of it."""
    match test:
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return _refine(operand, not truth, env)
        case ast.BoolOp(op=op, values=values) if isinstance(op, ast.And) is truth:
            for value in values:
                env = _refine(value, truth, env)
        case ast.Compare(ops=[op]) if (name := none_test(test)) in env:
            absent = isinstance(op, ast.Is) is truth
            kinds = frozenset({NONE}) if absent else env[name] - {NONE}
            return env | {name: kinds}
    return env


def _spoken(kinds: frozenset[str]) -> str:
    names = {HOST: "a value of the host", MASK: "a comparison", UNSET: "not always set"}
    return " or ".join(names.get(kind, kind) for kind in sorted(kinds - {ELEMENT}))
