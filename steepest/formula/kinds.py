"""Kinds: what an expression of a formula holds, and what it may not contain."""

import ast
import builtins
import difflib
from typing import NoReturn

from steepest.formula.source import Source
from steepest.formula.words import ARITY, WORDS

HOST, ELEMENT, MASK, NONE, UNSET = "host", "element", "mask", "None", "unset"
"""A value of the host, one per element, a comparison of those, a state not there, no value."""

Env = dict[str, frozenset[str]]
"""What each name may hold at one place of a formula."""

SIGNS = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**", ast.FloorDiv: "//",
    ast.Mod: "%", ast.MatMult: "@", ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^",
    ast.LShift: "<<", ast.RShift: ">>",
}  # fmt: skip


class Kinds:
    """Tells the kinds of expressions of one formula, refusing what the language does not have."""

    def __init__(self, source: Source, states: tuple[str, ...]) -> None:
        self.source = source
        self.states = states
        self.refuse = source.refuse
        self.words: dict[str, str] = {}
        """The words that were met, by the names that the formula calls them."""

    def condition(self, node: ast.expr, env: Env) -> None:
        """Check that an `if` can be decided on the host."""
        match node:
            case ast.BoolOp(values=values):
                for value in values:
                    self.condition(value, env)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self.condition(operand, env)
            case ast.Compare() if (name := none_test(node)) is not None:
                if name not in self.states and name not in env:
                    self._unknown(node.left, name)
            case _:
                if self.kind(node, env, host=True) != HOST:
                    self.refuse(
                        node,
                        "a formula may not branch on an element: `if` decides on the host",
                        f"write `where({ast.unparse(node)}, ..., ...)`",
                    )

    def kind(self, node: ast.expr, env: Env, host: bool = False) -> str:
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
                sign = SIGNS.get(type(op), "this operator")
                self.refuse(node, f"a formula may not use `{sign}`", "use + - * / **")
            case ast.Compare():
                return self._compare(node, env, host)
            case ast.Call():
                return self._call(node, env)
            case ast.Subscript(value=value, slice=ast.Constant(value=int())):
                if self.kind(value, env) == HOST:
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
                self.condition(node, env)
                return HOST
        self.refuse(
            node,
            f"a formula may not contain this ({type(node).__name__})",
            f"use numbers, names, + - * / **, comparisons and the words {', '.join(WORDS)}",
        )

    def _value(self, node: ast.expr, env: Env) -> str:
        """Tell the kind of an operand of arithmetic: a number or an element, never a mask."""
        kind = self.kind(node, env)
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
        if UNSET in kinds:
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
                self.kind(node.left, env, host)
                return HOST
            self.refuse(node, "a formula compares with < <= > >= == !=", "use one of these")
        kinds = {self.kind(node.left, env, host), self.kind(node.comparators[0], env, host)}
        return MASK if ELEMENT in kinds else HOST

    def _call(self, node: ast.Call, env: Env) -> str:
        if isinstance(node.func, ast.Attribute):
            self.kind(node.func, env)
        name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
        word = self.word(name)
        if word is None:
            self._unknown(node.func, name)
        self.words[name] = word
        arity = ARITY.get(word, 1)
        if node.keywords or len(node.args) != arity:
            self.refuse(
                node,
                f"`{word}` takes {arity} value{'s' * (arity > 1)}, by position",
                f"write `{word}({', '.join('xyz'[:arity])})`",
            )
        if word == "where":
            kinds = [self.kind(node.args[0], env), *(self._value(x, env) for x in node.args[1:])]
            if kinds[0] == ELEMENT:
                self.refuse(
                    node.args[0],
                    "`where` takes a comparison first",
                    f"write `where({ast.unparse(node.args[0])} != 0, ...)`",
                )
        else:
            kinds = [self._value(x, env) for x in node.args]
        return ELEMENT if {ELEMENT, MASK} & set(kinds) else HOST

    def word(self, name: str) -> str | None:
        """Tell which word a name stands for in the formula's module."""
        meaning = self.source.outside.get(name, getattr(builtins, name, None))
        return next((word for word, known in WORDS.items() if known is meaning), None)

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
        if name in self.source.outside:
            self.refuse(
                node,
                f"a formula may not use `{name}` from outside (here a "
                f"{type(self.source.outside[name]).__name__}): it sees its arguments and the words",
                f"make it a hyperparameter: `def {self.source.node.name}(p, g, ..., *, {name})`",
            )
        known = [*WORDS, *self.states, "p", "g"]
        near = difflib.get_close_matches(name, known, n=1)
        self.refuse(
            node,
            f"`{name}` is neither an argument nor a word of the language",
            f"did you mean `{near[0]}`?" if near else f"the words are {', '.join(WORDS)}",
        )


def none_test(node: ast.expr) -> str | None:
    """Return the name in `name is None` or `name is not None`."""
    match node:
        case ast.Compare(
            left=ast.Name(id=name),
            ops=[ast.Is() | ast.IsNot()],
            comparators=[ast.Constant(value=None)],
        ):
            return name
    return None
