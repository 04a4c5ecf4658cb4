"""Shapes: what a name of a formula is as large as, beside its parameter.

A state that is only ever set from the host's numbers is one number for its parameter (NAdam's
`mu_product`); one set from the means of rows has one value for each row. Found for a whole formula
at once: the largest shape that any assignment gives a name.
"""

import ast
from collections.abc import Callable, Iterable

HOST, TOTAL, NUMBER, ROW, COLUMN, CORNER, MATRIX, FULL = (
    "host", "total", "number", "row", "column", "corner", "matrix", "full",
)  # fmt: skip
"""A number of the host; one that it learns within a step; one number for a tensor; one for each
row (..., n, 1), for each column (..., 1, m), for each matrix (..., 1, 1); another tensor, known to
torch alone; one for each element."""

TORCH = (ROW, COLUMN, CORNER, MATRIX)
"""Shapes that torch computes: their tensors are small, or their mathematics is not element-wise."""


def broadcast(*shapes: str) -> str:
    """Return the shape that comes of computing with several.

    >>> broadcast(HOST, NUMBER), broadcast(ROW, COLUMN), broadcast(CORNER, ROW)
    ('number', 'full', 'row')
    """
    left = {shape for shape in shapes if shape != HOST}
    for small in (TOTAL, NUMBER):
        if len(left) > 1:
            left.discard(small)
    if len(left) > 1:
        left.discard(CORNER)
    if len(left) <= 1:
        return left.pop() if left else HOST
    return MATRIX if MATRIX in left else FULL


def infer(
    body: Iterable[ast.stmt],
    states: tuple[str, ...],
    makes: Callable[[ast.Call, str], str | None],
) -> dict[str, str]:
    """Return the shape of every name of a formula.

    Args:
        body: its statements, the `return` last.
        states: its states; one that is never assigned is p's size.
        makes: tells what a call makes of its first argument's shape; None for an element's word.
    """
    assigned = list(_assignments(list(body), states))
    known: dict[str, str | None] = dict.fromkeys(("p", "g", *states), FULL)
    known |= {name: None for name, _ in assigned if name not in ("p", "g")}
    changed = True
    while changed:
        changed = False
        for name, value in assigned:
            found = _shape(value, known, makes)
            if found is not None:
                joined = broadcast(found, known[name] or found)
                changed |= known[name] != joined
                known[name] = joined
    return {name: shape or FULL for name, shape in known.items()}


def _assignments(body: list[ast.stmt], states: tuple[str, ...]) -> Iterable[tuple[str, ast.expr]]:
    """Find every name with what it is given; a `return` gives the states their values."""
    for statement in body:
        for node in ast.walk(statement):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    yield name, value
                case ast.Return(value=ast.Tuple(elts=items)) if len(items) == len(states) + 1:
                    for name, item in zip(states, items[1:], strict=True):
                        if not (isinstance(item, ast.Name) and item.id == name):
                            yield name, item


def _shape(
    node: ast.expr,
    known: dict[str, str | None],
    makes: Callable[[ast.Call, str], str | None],
) -> str | None:
    """Return the shape of an expression; None while it rests on names not met yet."""
    parts: list[ast.expr] = []
    match node:
        case ast.Name(id=name):
            return known.get(name, HOST)
        case ast.Call(args=parts):
            if parts and makes(node, FULL) is not None:
                first = _shape(parts[0], known, makes)
                return None if first is None else makes(node, first)
        case ast.BinOp(left=left, right=right):
            parts = [left, right]
        case ast.UnaryOp(operand=operand):
            parts = [operand]
        case ast.Compare(left=left, comparators=right):
            parts = [left, *right]
    there = [shape for x in parts if (shape := _shape(x, known, makes)) is not None]
    return broadcast(*there) if there or not parts else None
