"""Kinds: what an expression of a formula holds, and what it may not contain."""

import ast
import builtins
import difflib
import inspect
from typing import Any, NoReturn

from steepest.formula.shapes import FULL, HOST, TOTAL
from steepest.formula.source import Source
from steepest.formula.whole import FACTS, WHOLE
from steepest.formula.words import ARITY, WORDS

ELEMENT, MASK, NONE, UNSET = "element", "mask", "None", "unset"
"""A value on a tensor, a comparison of those, a state not there, no value; besides HOST, TOTAL."""

Env = dict[str, frozenset[str]]
"""What each name may hold at one place of a formula."""

SIGNS = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**", ast.FloorDiv: "//",
    ast.Mod: "%", ast.MatMult: "@", ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^",
    ast.LShift: "<<", ast.RShift: ">>",
}  # fmt: skip

INSTEAD = {
    "square": "x * x", "pow": "x ** y", "mul": "x * y", "add": "x + y", "sub": "x - y",
    "div": "x / y", "max": "maximum(x, y)", "min": "minimum(x, y)", "clamp": "maximum(x, y)",
}  # fmt: skip
"""What to write for a call that is known elsewhere."""


class Kinds:
    """Tells the kinds of expressions of one formula, refusing what the language does not have."""

    def __init__(self, source: Source, states: tuple[str, ...]) -> None:
        self.source = source
        self.states = states
        self.refuse = source.refuse
        self.words: dict[str, str] = {}
        """The words that were met, by the names that the formula calls them."""

    # ---- decisions ----------------------------------------------------------------------------

    def condition(self, node: ast.expr, env: Env) -> None:
        """Check that an `if` can be decided on the host."""
        match node:
            case ast.BoolOp(values=values):
                for value in values:
                    self.condition(value, env)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self.condition(operand, env)
            case ast.Compare(left=ast.Name() as tested) if none_test(node) is not None:
                self._name(tested, env, tested=True)
            case ast.Compare(ops=[ast.Eq() | ast.NotEq() as op], comparators=[ast.Constant(None)]):
                sign = "is" if isinstance(op, ast.Eq) else "is not"
                left = ast.unparse(node.left)
                self.refuse(node, "None is not compared", f"write `{left} {sign} None`")
            case _:
                kind = self.kind(node, env, host=True)
                if kind == TOTAL:
                    self.refuse(
                        node,
                        "a formula may not branch on a total: `if` decides before it is known",
                        f"write `where({ast.unparse(node)}, ..., ...)`",
                    )
                if kind != HOST:
                    self.refuse(
                        node,
                        "a formula may not branch on an element: `if` decides on the host",
                        f"write `where({ast.unparse(node)}, ..., ...)`",
                    )

    def kind(self, node: ast.expr, env: Env, host: bool = False) -> str:
        """Tell what an expression holds, refusing what the language does not have.

        `host` allows what only a host decision may contain: None, booleans, text, not.
        """
        match node:
            case ast.Constant(value=value):
                if type(value) in (int, float) or (host and isinstance(value, bool | str | None)):
                    return HOST
                self.refuse(node, "a formula computes with real numbers", "write a number")
            case ast.Name():
                return self._name(node, env)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                return self._number(operand, env)
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.Pow()):
                return _joined(self._number(node.left, env), self._number(node.right, env))
            case ast.Compare():
                return self._compare(node, env, host)
            case ast.Call():
                return self._call(node, env)
            case ast.Subscript(value=value, slice=ast.Constant(value=int())):
                if self.kind(value, env) == HOST:
                    return HOST
                self.refuse(node, "an element has no parts", "index hyperparameters only")
            case ast.BoolOp() | ast.UnaryOp(op=ast.Not()) if host:
                self.condition(node, env)
                return HOST
        self._outside(node, env)

    # ---- parts of an expression ---------------------------------------------------------------

    def _number(self, node: ast.expr, env: Env, host: bool = False) -> str:
        """Tell the kind of an operand: a value of the host or an element, never a mask."""
        kind = self.kind(node, env, host)
        if kind == MASK:
            self.refuse(
                node,
                "a comparison is no number",
                f"write `where({ast.unparse(node)}, 1.0, 0.0)`",
            )
        return kind

    def _name(self, node: ast.Name, env: Env, tested: bool = False) -> str:
        name = node.id
        if name not in env:
            self._unknown(node, name, env)
        kinds = env[name]
        if UNSET in kinds:
            self.refuse(
                node,
                f"`{name}` has a value on one side of an `if` only",
                "give it a value on both sides, or before",
            )
        if NONE in kinds and not tested:
            what = "state" if name in self.states else "hyperparameter"
            self.refuse(
                node,
                f"the {what} `{name}` is used before it exists: it may be None here",
                f"give it a value under `if {name} is None:` first",
            )
        if {ELEMENT, MASK} <= kinds:
            self.refuse(
                node,
                f"`{name}` is a comparison on one side of an `if` and a number on the other",
                "take two names",
            )
        return next(kind for kind in (MASK, ELEMENT, TOTAL, HOST, NONE) if kind in kinds)

    def _compare(self, node: ast.Compare, env: Env, host: bool) -> str:
        if len(node.ops) > 1:
            self.refuse(
                node,
                "a formula compares two values at a time",
                "nest two `where`, or join two comparisons of an `if` by `and`",
            )
        known = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
        if not isinstance(node.ops[0], known):
            self.refuse(
                node,
                "a formula compares with < <= > >= == != (and `if state is None`)",
                "use one of these",
            )
        side = _joined(*(self._number(x, env, host) for x in (node.left, *node.comparators)))
        return MASK if side == ELEMENT else side

    def _call(self, node: ast.Call, env: Env) -> str:
        name = ast.unparse(node.func)
        word = self.word(name) if isinstance(node.func, ast.Name) else None
        if word is None:
            self._unknown(node.func, name, env)
        self.words[name] = word
        if word in FACTS:
            return self._fact(node, word)
        if word in WHOLE:
            return self._whole(node, word, env)
        arity = ARITY.get(word, 1)
        if node.keywords or len(node.args) != arity:
            self.refuse(
                node,
                f"`{word}` takes {arity} value{'s' * (arity > 1)}, by position",
                f"write `{word}({', '.join('xyz'[:arity])})`",
            )
        if word != "where":
            return _joined(*(self._number(x, env) for x in node.args))
        condition = self.kind(node.args[0], env)
        if condition == ELEMENT:
            self.refuse(
                node.args[0],
                "`where` takes a comparison first",
                f"write `where({ast.unparse(node.args[0])} != 0, ...)`",
            )
        sides = _joined(*(self._number(x, env) for x in node.args[1:]))
        return ELEMENT if condition == MASK else _joined(condition, sides)

    def _fact(self, node: ast.Call, word: str) -> str:
        """Check a word that tells of the parameter's shape."""
        match node:
            case ast.Call(args=[ast.Name(id="p")], keywords=[]):
                return HOST
        self.refuse(node, f"`{word}` tells of the parameter", f"write `{word}(p)`")

    def _whole(self, node: ast.Call, word: str, env: Env) -> str:
        """Check a word of a whole tensor: tensors first, then numbers of the host."""
        tensors = WHOLE[word].tensors
        if node.keywords or len(node.args) < tensors:
            self.refuse(
                node,
                f"`{word}` takes {tensors} tensor{'s' * (tensors > 1)} first, all by position",
                f"write `{word}({', '.join('xyz'[:tensors])})`",
            )
        most = len(inspect.signature(WHOLE[word].function).parameters)
        if len(node.args) > most:
            self.refuse(
                node.args[most],
                f"`{word}` takes {most} argument{'s' * (most > 1)}, this is one more",
                "leave it out",
            )
        for k, arg in enumerate(node.args):
            kind = self._number(arg, env)
            if (kind == ELEMENT) is not (k < tensors):
                due = "a tensor" if k < tensors else "a number of the host"
                self.refuse(arg, f"`{word}` takes {due} here", "see its help for what it computes")
        return TOTAL if WHOLE[word].makes.get(FULL) == TOTAL else ELEMENT

    def makes(self, node: ast.Call, shape: str) -> str | None:
        """Tell the shape that a call makes of its first argument's; None for an element's word."""
        word = self.word(ast.unparse(node.func))
        if word in FACTS:
            return HOST
        if word not in WHOLE:
            return None
        makes = WHOLE[word].makes
        return makes.get(shape, next(iter(makes.values())))

    def word(self, name: str) -> str | None:
        """Tell which word a name stands for in the formula's module."""
        meaning = self.source.outside.get(name, getattr(builtins, name, None))
        return next((word for word, known in KNOWN.items() if known is meaning), None)

    # ---- refusals -----------------------------------------------------------------------------

    def _outside(self, node: ast.expr, env: Env) -> NoReturn:
        """Refuse an expression that the language does not have."""
        rule, instead = (
            f"a formula may not contain `{ast.unparse(node)}`",
            f"use numbers, names, + - * / **, comparisons and the words {_ALL}",
        )
        match node:
            case ast.BinOp(op=op):
                rule, instead = f"a formula may not use `{SIGNS[type(op)]}`", "use + - * / **"
                if isinstance(op, ast.BitAnd | ast.BitOr | ast.BitXor):
                    instead = "nest two `where`"
            case ast.BoolOp() | ast.UnaryOp(op=ast.Not() | ast.Invert()):
                rule = "a formula uses `and`, `or`, `not` in an `if` only"
                instead = "nest two `where`, or swap the values of one"
            case ast.Attribute(attr=attribute):
                rule = f"a formula may not look up an attribute (`.{attribute}`)"
                instead = _instead_of(attribute)
            case ast.IfExp(test=test):
                self.condition(test, env)
                rule = "a formula has no `... if ... else ...`"
                instead = "write an `if` on lines of its own"
        self.refuse(node, rule, instead)

    def _unknown(self, node: ast.expr, name: str, env: Env) -> NoReturn:
        """Refuse a name without a value, or a call of what is no word."""
        formula = self.source.node.name
        if isinstance(node, ast.Attribute):
            self._outside(node, env)
        elif name in env:
            rule, instead = f"`{name}` is a value, not a word", f"the words are {_ALL}"
        elif self.word(name) is not None:
            rule, instead = f"`{name}` is a word, not a value", f"call it: `{name}(...)`"
        elif name in KNOWN:
            rule = f"the word `{name}` is not imported"
            instead = f"add `from steepest.formula import {name}`"
        elif name == "step":
            rule = "a formula that uses `step` takes it as a keyword"
            instead = f"write `def {formula}(p, g, ..., *, step, ...)`"
        elif name in INSTEAD:
            rule = f"`{name}` is not a word of the language"
            instead = _instead_of(name)
        elif not callable(self.source.outside.get(name, callable)):
            what = type(self.source.outside[name]).__name__
            rule = (
                f"a formula may not use `{name}` from outside (here a {what}): "
                "it sees its arguments and the words"
            )
            instead = f"make it a hyperparameter: `def {formula}(p, g, ..., *, {name})`"
        else:
            near = difflib.get_close_matches(name, [*KNOWN, *env], n=1)
            rule = f"`{name}` is neither an argument nor a word of the language"
            instead = f"did you mean `{near[0]}`?" if near else f"the words are {_ALL}"
        self.refuse(node, rule, instead)


KNOWN: dict[str, Any] = WORDS | {name: whole.function for name, whole in WHOLE.items()} | FACTS
_ALL = ", ".join(KNOWN)


def _joined(*kinds: str) -> str:
    """Return the kind of what is computed from several."""
    return next(kind for kind in (ELEMENT, TOTAL, HOST) if kind in kinds)


def none_test(node: ast.AST) -> str | None:
    """Return the name in `name is None` or `name is not None`."""
    match node:
        case ast.Compare(
            left=ast.Name(id=name),
            ops=[ast.Is() | ast.IsNot()],
            comparators=[ast.Constant(value=None)],
        ):
            return name
    return None


def _instead_of(name: str) -> str:
    if name in ("sum", "std", "var"):
        return "the words for a whole tensor are norm, mean and total"
    if name in ("pi", "e", "inf", "nan", "tau"):
        return f"write the number, or make `{name}` a hyperparameter"
    if name in KNOWN:
        return f"write `{name}(x)` with `from steepest.formula import {name}`"
    if name in INSTEAD:
        return f"write `{INSTEAD[name]}`"
    return "write the operation with + - * / ** and words"
