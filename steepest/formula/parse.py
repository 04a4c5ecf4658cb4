"""Parse: a plain Python function -> a checked syntax tree, once per formula.

Everything outside the language is refused here with file, line and caret, before any number is
computed. What the six sentences of the language allow is documented in docs/formulas.md.
"""

import ast
import builtins
import difflib
import inspect
import linecache
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, NoReturn

from steepest.errors import FormulaError
from steepest.formula.words import ARITY, WORDS

HOST, ELEMENT, MASK, NONE = "host", "element", "mask", "None"
"""What a name may hold: a value of the host, one per element, a comparison, a state not there."""

REQUIRED = object()
"""The default of a hyperparameter that has none."""

Env = dict[str, frozenset[str]]


@dataclass(frozen=True, eq=False)
class Formula:
    """A checked formula: its signature and its body, ready to be planned.

    `states` are named by torch's keys, `hyperparameters` map names to defaults (`REQUIRED` where
    there is none), `counts` tells whether it takes `step`, `tested` which states it tests for
    `None`.
    """

    function: FunctionType
    name: str
    states: tuple[str, ...]
    hyperparameters: dict[str, Any]
    counts: bool
    tested: frozenset[str]
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
    return _Checker(function).formula()


class _Checker:
    """Reads one function from top to bottom, knowing what each name may hold."""

    def __init__(self, function: FunctionType) -> None:
        self.function = function
        self.file = function.__code__.co_filename
        linecache.checkcache(self.file)
        self.lines = linecache.getlines(self.file, function.__globals__)
        self.node = self._find()
        self.tested: set[str] = set()
        names = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
        self.outside = names

    # ---- the whole function -------------------------------------------------------------------

    def formula(self) -> Formula:
        states, hyperparameters, counts = self._signature()
        self.states = states
        env: Env = {"p": frozenset({ELEMENT}), "g": frozenset({ELEMENT})}
        env |= {name: frozenset({HOST}) for name in hyperparameters}
        if counts:
            env["step"] = frozenset({HOST})
        body = self.node.body
        if ast.get_docstring(self.node, clean=False) is not None:
            body = body[1:]
        self.tested = {state for state in states if self._is_tested(state)}
        env |= {s: frozenset({ELEMENT, NONE} if s in self.tested else {ELEMENT}) for s in states}
        if not body or not isinstance(body[-1], ast.Return):
            self.refuse(
                body[-1] if body else self.node,
                "a formula ends with one `return` of p and the states",
                f"end it with `return {', '.join(('p', *states))}`",
            )
        env = self._block(body[:-1], env)
        self._return(body[-1], env)
        last = self.node.end_lineno or self.node.lineno
        return Formula(
            function=self.function,
            name=self.function.__name__,
            states=states,
            hyperparameters=hyperparameters,
            counts=counts,
            tested=frozenset(self.tested),
            body=tuple(body),
            source="".join(self.lines[self.node.lineno - 1 : last]),
        )

    def _find(self) -> ast.FunctionDef:
        """Find the function's own syntax tree in its file."""
        code = self.function.__code__
        place = f"{self.function.__name__} ({self.file})"
        if not self.lines:
            raise FormulaError(
                f"the source of the formula {place} cannot be read; "
                "write it in a file or a notebook cell, not at a prompt or in exec()"
            )
        for node in ast.walk(ast.parse("".join(self.lines))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                if node.name == code.co_name and first == code.co_firstlineno:
                    if isinstance(node, ast.AsyncFunctionDef):
                        break
                    return node
        raise FormulaError(
            f"the source of the formula {place} is not the plain function that was imported; "
            "restart Python if the file has changed since, and write it with `def`"
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
        defaults = self.function.__kwdefaults__ or {}
        hyper = {name: defaults.get(name, REQUIRED) for name in keywords if name != "step"}
        return tuple(names[2:]), hyper, "step" in keywords

    def _is_tested(self, state: str) -> bool:
        return any(
            isinstance(node, ast.Compare) and _none_test(node) == state
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
                return env | {name: frozenset({self._kind(node.value, env)})}
            case ast.Assign(targets=[ast.Tuple(elts=targets)]):
                return self._unpack(node, targets, env)
            case ast.If():
                return self._if(node, env)
            case ast.Pass():
                return env
            case ast.Return():
                self.refuse(node, "a formula returns once, at its end", "use `if` without `return`")
            case ast.AugAssign(target=ast.Name(id=name), op=op):
                sign = _SIGNS.get(type(op), "+")
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
        if name == "step" or self._word(name) is not None:
            self.refuse(node, f"a formula may not give `{name}` a new meaning", "take another name")

    def _unpack(self, node: ast.Assign, targets: list[ast.expr], env: Env) -> Env:
        if isinstance(node.value, ast.Tuple) or self._kind(node.value, env) != HOST:
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
        self._condition(node.test, env)
        yes = self._block(node.body, _refine(node.test, True, env))
        no = self._block(node.orelse, _refine(node.test, False, env))
        return {
            name: yes.get(name, frozenset()) | no.get(name, frozenset())
            | (frozenset() if name in yes and name in no else frozenset({"unset"}))
            for name in yes | no
        }  # fmt: skip

    def _condition(self, node: ast.expr, env: Env) -> None:
        """Check that an `if` can be decided on the host."""
        match node:
            case ast.BoolOp(values=values):
                for value in values:
                    self._condition(value, env)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self._condition(operand, env)
            case ast.Compare() if (name := _none_test(node)) is not None:
                if name not in self.states and name not in env:
                    self._unknown(node.left, name)
            case _:
                if self._kind(node, env, host=True) != HOST:
                    self.refuse(
                        node,
                        "a formula may not branch on an element: `if` decides on the host",
                        f"write `where({ast.unparse(node)}, ..., ...)`",
                    )

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
                kinds = frozenset({self._kind(item, env)})
            if kinds - {ELEMENT}:
                self.refuse(
                    item,
                    f"`{name}` must be computed from elements, this is {_spoken(kinds)}",
                    "keep what depends on hyperparameters alone out of p and the states",
                )

    # ---- expressions --------------------------------------------------------------------------

    def _kind(self, node: ast.expr, env: Env, host: bool = False) -> str:
        """Tell what an expression holds, refusing what the language does not have.

        `host` allows what only a host decision may contain: None, booleans, text, comparisons.
        """
        match node:
            case ast.Constant(value=value):
                if isinstance(value, int | float) and not isinstance(value, bool):
                    return HOST
                if isinstance(value, bool | str | None):
                    return HOST
                self.refuse(node, "a formula's constants are real numbers", "remove it")
            case ast.Name(id=name):
                return self._name(node, name, env)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                return self._value(operand, env)
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.Pow()):
                kinds = {self._value(node.left, env), self._value(node.right, env)}
                return ELEMENT if ELEMENT in kinds else HOST
            case ast.BinOp(op=op):
                sign = _SIGNS.get(type(op), "this operator")
                self.refuse(node, f"a formula may not use `{sign}`", "use + - * / **")
            case ast.Compare():
                return self._compare(node, env, host)
            case ast.Call():
                return self._call(node, env)
            case ast.Subscript(value=value, slice=ast.Constant(value=int())):
                if self._kind(value, env) == HOST:
                    return HOST
                self.refuse(node, "an element has no parts", "index hyperparameters only")
            case ast.Attribute():
                self.refuse(
                    node,
                    f"a formula may not look up an attribute (`.{node.attr}`)",
                    self._instead_of(node.attr),
                )
            case ast.IfExp():
                self.refuse(
                    node,
                    "a formula chooses with `where` per element and with an `if` line on the host",
                    f"write `where({ast.unparse(node.test)}, {ast.unparse(node.body)}, "
                    f"{ast.unparse(node.orelse)})`",
                )
            case ast.BoolOp() | ast.UnaryOp(op=ast.Not()) if host:
                self._condition(node, env)
                return HOST
        self.refuse(
            node,
            f"a formula may not contain this ({type(node).__name__})",
            f"use numbers, names, + - * / **, comparisons and the words {', '.join(WORDS)}",
        )

    def _value(self, node: ast.expr, env: Env) -> str:
        """Tell the kind of an operand of arithmetic: a number or an element, never a mask."""
        kind = self._kind(node, env)
        if kind == MASK:
            self.refuse(
                node,
                "a comparison is no number",
                f"write `where({ast.unparse(node)}, 1.0, 0.0)`",
            )
        if isinstance(node, ast.Constant) and not isinstance(node.value, int | float):
            self.refuse(node, "a formula computes with numbers", "remove it")
        return kind

    def _name(self, node: ast.Name, name: str, env: Env) -> str:
        kinds = env.get(name)
        if kinds is None:
            self._unknown(node, name)
        if NONE in kinds:
            self.refuse(
                node,
                f"the state `{name}` is used before it exists: it may be None here",
                f"give it a value under `if {name} is None:` first",
            )
        if "unset" in kinds:
            self.refuse(
                node,
                f"`{name}` has a value on one side of an `if` only",
                "give it a value on both sides, or before",
            )
        if len(kinds) > 1:
            return ELEMENT if kinds == {ELEMENT, HOST} else MASK
        return next(iter(kinds))

    def _compare(self, node: ast.Compare, env: Env, host: bool) -> str:
        if len(node.ops) > 1:
            self.refuse(node, "a formula compares two values at a time", "nest two `where`")
        if not isinstance(node.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE | ast.Eq | ast.NotEq):
            if host and isinstance(node.ops[0], ast.Is | ast.IsNot | ast.In | ast.NotIn):
                self._kind(node.left, env, host)
                return HOST
            self.refuse(node, "a formula compares with < <= > >= == !=", "use one of these")
        kinds = {self._kind(node.left, env, host), self._kind(node.comparators[0], env, host)}
        return MASK if ELEMENT in kinds else HOST

    def _call(self, node: ast.Call, env: Env) -> str:
        if isinstance(node.func, ast.Attribute):
            self._kind(node.func, env)
        name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
        word = self._word(name)
        if word is None:
            self._unknown(node.func, name)
        arity = ARITY.get(word, 1)
        if node.keywords or len(node.args) != arity:
            self.refuse(
                node,
                f"`{word}` takes {arity} value{'s' * (arity > 1)}, by position",
                f"write `{word}({', '.join('xyz'[:arity])})`",
            )
        if word == "where":
            kinds = [self._kind(node.args[0], env), *(self._value(x, env) for x in node.args[1:])]
            if kinds[0] == ELEMENT:
                self.refuse(
                    node.args[0],
                    "`where` takes a comparison first",
                    f"write `where({ast.unparse(node.args[0])} != 0, ...)`",
                )
        else:
            kinds = [self._value(x, env) for x in node.args]
        return ELEMENT if {ELEMENT, MASK} & set(kinds) else HOST

    def _word(self, name: str) -> str | None:
        """Tell which word a name stands for in the formula's module."""
        meaning = self.outside.get(name, getattr(builtins, name, None))
        return next((word for word, known in WORDS.items() if known is meaning), None)

    # ---- refusals -----------------------------------------------------------------------------

    def _instead_of(self, attribute: str) -> str:
        known = {"square": "x * x", "pow": "x ** y", "mul": "x * y", "add": "x + y"}
        if attribute in WORDS:
            return f"write `{attribute}(x)` with `from steepest.formula import {attribute}`"
        return f"write `{known.get(attribute, 'the operation with + - * / ** and words')}`"

    def _unknown(self, node: ast.AST, name: str) -> NoReturn:
        if name in WORDS:
            self.refuse(
                node,
                f"the word `{name}` is not imported",
                f"add `from steepest.formula import {name}`",
            )
        if name in self.outside:
            self.refuse(
                node,
                f"a formula may not use `{name}` from outside (here a "
                f"{type(self.outside[name]).__name__}): it sees its arguments and the words",
                f"make it a hyperparameter: `def {self.node.name}(p, g, ..., *, {name})`",
            )
        known = [*WORDS, *self.states, "p", "g"]
        near = difflib.get_close_matches(name, known, n=1)
        self.refuse(
            node,
            f"`{name}` is neither an argument nor a word of the language",
            f"did you mean `{near[0]}`?" if near else f"the words are {', '.join(WORDS)}",
        )

    def refuse(self, node: ast.AST, rule: str, instead: str) -> NoReturn:
        """Raise a FormulaError that points at a node."""
        line = getattr(node, "lineno", self.node.lineno)
        column = getattr(node, "col_offset", 0)
        text = self.lines[line - 1].rstrip("\n")
        end = getattr(node, "end_col_offset", None)
        if end is None or getattr(node, "end_lineno", line) != line:
            end = len(text)
        start = len(text.encode()[:column].decode(errors="ignore"))
        width = max(1, len(text.encode()[:end].decode(errors="ignore")) - start)
        raise FormulaError(
            f"{rule}; {instead}\n"
            f'  File "{self.file}", line {line}, in {self.node.name}\n'
            f"    {text}\n"
            f"    {' ' * start}{'^' * width}"
        )


_SIGNS = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**", ast.FloorDiv: "//",
    ast.Mod: "%", ast.MatMult: "@", ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^",
    ast.LShift: "<<", ast.RShift: ">>",
}  # fmt: skip


def _none_test(node: ast.expr) -> str | None:
    """Return the name in `name is None` or `name is not None`."""
    match node:
        case ast.Compare(
            left=ast.Name(id=name),
            ops=[ast.Is() | ast.IsNot()],
            comparators=[ast.Constant(value=None)],
        ):
            return name
    return None


def _refine(test: ast.expr, truth: bool, env: Env) -> Env:
    """Narrow what a state may hold by what a decision has told of it."""
    match test:
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return _refine(operand, not truth, env)
        case ast.BoolOp(op=op, values=values) if isinstance(op, ast.And) is truth:
            for value in values:
                env = _refine(value, truth, env)
        case ast.Compare(ops=[op]) if (name := _none_test(test)) in env:
            absent = isinstance(op, ast.Is) is truth
            kinds = frozenset({NONE}) if absent else env[name] - {NONE}
            return env | {name: kinds}
    return env


def _spoken(kinds: frozenset[str]) -> str:
    names = {HOST: "a value of the host", MASK: "a comparison", "unset": "not always set"}
    return " or ".join(names.get(kind, kind) for kind in sorted(kinds - {ELEMENT}))
