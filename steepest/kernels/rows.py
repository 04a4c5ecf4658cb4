"""Rows: which formulas a sparse gradient lets be run on the rows that it has, and on no other.

An embedding of a million rows has a gradient for the few that a batch has met. Where an element
whose gradient is zero stays as it is, the other rows need not be read.
"""

import ast
import functools
from collections.abc import Callable, Mapping
from types import FunctionType
from weakref import WeakSet

import torch
from torch import Tensor

from steepest.formula import Formula, Plan

Index = tuple[Tensor, ...] | None
"""Where the rows are, a tensor for each sparse dimension; None for all of a tensor."""

_LAZY: WeakSet[Callable] = WeakSet()


def lazy(formula: FunctionType) -> FunctionType:
    """Declare that a formula updates the rows of a sparse gradient alone, whatever it says of 0.

    The states of the other rows stay as they are, too; a formula that tests one for None cannot be
    lazy, for a state is there for all rows or for none.
    """
    _LAZY.add(formula)
    return formula


def is_lazy(formula: Formula) -> bool:
    """Tell whether a formula is declared to update the rows of a sparse gradient alone."""
    return formula.function in _LAZY


def of_gradient(plan: Plan, g: Tensor) -> tuple[Index, Tensor]:
    """Return the index of the rows that a gradient can change, and their gradients.

    Returns:
        `(index, values)` so that `p[index]` belongs to `values`, each row once; `(None, g)` when
        all of p may change.
    """
    if g.layout is not torch.sparse_coo or g.sparse_dim() == 0:
        return None, g
    if is_lazy(plan.formula):
        assert not plan.absent, "a lazy formula tests no state for None"
    elif not leaves_the_rest(plan):
        return None, g
    g = g.coalesce()
    return g.indices().unbind(), g.values()


@functools.lru_cache(maxsize=256)
def leaves_the_rest(plan: Plan) -> bool:
    """Tell whether an element with a gradient of zero keeps its value and its states.

    Read off the plan, with 0 for g and all else finite: SGD without momentum and weight decay does,
    Adagrad without weight decay, a step by `sign(g)`; a running mean decays and does not.
    """
    if plan.shaped or not _by_element(plan):
        return False
    known: dict[str, str | None] = {name: name for name in ("p", *plan.formula.states)}
    known["g"] = _ZERO
    for name, expr in plan.lines:
        known[name] = _at_zero(expr, known)
    return all(_at_zero(expr, known) == name for name, expr in plan.outputs.items())


_ZERO = "0"
_WORDS = {"abs", "exp", "log", "maximum", "minimum", "sign", "sqrt", "where"}


def _by_element(plan: Plan) -> bool:
    """Tell whether a plan sees one element alone: a norm of some rows is not that of all."""
    known = {"p", "g", *plan.formula.states, *plan.scalars, *_WORDS, *(n for n, _ in plan.lines)}
    exprs = (*(expr for _, expr in plan.lines), *plan.outputs.values())
    names = (n.id for expr in exprs for n in ast.walk(expr) if isinstance(n, ast.Name))
    return known.issuperset(names)


def _at_zero(expr: ast.expr, known: Mapping[str, str | None]) -> str | None:
    """Tell what an expression is where g is 0: zero, p or a state as it came, or None (unknown)."""
    match expr:
        case ast.Constant(value=0):
            return _ZERO
        case ast.Name(id=name):
            return known.get(name)
        case ast.UnaryOp(operand=operand) if _at_zero(operand, known) == _ZERO:
            return _ZERO
        case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int() | float() as n)) if (
            n > 0
        ):
            return _ZERO if _at_zero(left, known) == _ZERO else None
        case ast.BinOp(left=left, op=op, right=right):
            return _of_two(op, _at_zero(left, known), _at_zero(right, known))
        case ast.Call(func=ast.Name(id="abs" | "sign" | "sqrt"), args=[x]):
            return _ZERO if _at_zero(x, known) == _ZERO else None
        case ast.Call(func=ast.Name(id="maximum" | "minimum"), args=[x, y]):
            return _either(_at_zero(x, known), _at_zero(y, known))
        case ast.Call(func=ast.Name(id="where"), args=[_, x, y]):
            return _either(_at_zero(x, known), _at_zero(y, known))
    return None


def _of_two(op: ast.operator, left: str | None, right: str | None) -> str | None:
    match op:
        case ast.Add() if left == _ZERO:
            return right
        case ast.Add() | ast.Sub() if right == _ZERO:
            return left
        case ast.Mult() if _ZERO in (left, right):
            return _ZERO
        case ast.Div() if left == _ZERO:
            return _ZERO
    return None


def _either(x: str | None, y: str | None) -> str | None:
    return x if x == y else None
