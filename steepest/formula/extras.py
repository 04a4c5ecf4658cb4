"""Extras: what any optimizer can do in the same pass over memory, whatever its formula.

They are lines before and after the formula's own, so the kernels know nothing of them.
"""

import ast
from typing import NamedTuple


class Extras(NamedTuple):
    """What is done besides the formula: part of what a plan is made for.

    The numbers that they need are given to the plan's host function with the states' (`own`).
    """

    clip_value: bool = False
    """Bound each element of the gradient to plus and minus `clip_value`."""
    average: str | None = None
    """Keep an average of p in the state `average`: "ema" (of `average_decay`) or "mean"."""
    zero_grad: bool = False
    """Set the gradient to zero once it is read."""
    norms: bool = False
    """Sum the squares of gradient, parameter and update, and count what is not finite."""


NOTHING = Extras()

AVERAGE, COUNT = "average", "n_averaged"
"""The states of an average: its tensor, and how many it is made of (torch's name)."""

NORMS = ("gradient", "parameter", "update", "nonfinite")
"""What is summed over each parameter for `Extras.norms`."""


def expression(text: str) -> ast.expr:
    """Return the syntax tree of an expression of the language."""
    return ast.parse(text, mode="eval").body


def average_weight(extras: Extras) -> str:
    """Write how much of the new p enters the average, on the host; the first p enters whole."""
    later = "1 - average_decay" if extras.average == "ema" else f"1 / {COUNT}"
    return f"where({COUNT} == 1, 1.0, {later})"


def square(x: ast.expr) -> ast.expr:
    """Return the square of an expression as it is summed: in float64."""
    return ast.Call(ast.Name("_square"), [x], [])


def sums(p: ast.expr) -> dict[str, ast.expr]:
    """Return what is summed for the norms, given the expression of the new p; `_g` is the gradient
    as it lies in memory."""
    new = ast.unparse(p)
    return {
        "gradient": square(ast.Name("_g")),
        "parameter": square(p),
        "update": square(expression(f"({new}) - p")),
        "nonfinite": expression("where(_g - _g == 0, 0.0, 1.0)"),
    }
