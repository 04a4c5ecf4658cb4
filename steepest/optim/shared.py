"""Shared: a state of one number that rests on a total is the whole optimizer's.

Every parameter keeps it among its own states. One without a gradient is told of it as well, and
one that comes later begins with it: else each would go on with an estimate of its own.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from steepest.formula import Formula


def begin(formulas: Sequence[Formula], groups: Sequence[dict[str, Any]], state: Any) -> None:
    """Give parameters that have a gradient, but no shared numbers yet, those of the others."""
    for formula, params in _by_formula(formulas, groups):
        there = next((state[p] for p in params if formula.shared <= state.get(p, {}).keys()), None)
        if there is not None:
            for p in (p for p in params if p.grad is not None):
                for name in formula.shared - state.get(p, {}).keys():
                    state[p][name] = there[name].clone()


def tell(formulas: Sequence[Formula], groups: Sequence[dict[str, Any]], state: Any) -> None:
    """Tell parameters without a gradient of the numbers that this step has come to."""
    for formula, params in _by_formula(formulas, groups):
        now = next((state[p] for p in params if p.grad is not None), None)
        if now is not None:
            for p in (p for p in params if p.grad is None):
                for name in formula.shared & state.get(p, {}).keys():
                    state[p][name].copy_(now[name])


def _by_formula(
    formulas: Sequence[Formula], groups: Sequence[dict[str, Any]]
) -> Iterator[tuple[Formula, list[Tensor]]]:
    for formula in dict.fromkeys(formulas):
        if formula.shared:
            pairs = zip(formulas, groups, strict=True)
            yield formula, [p for other, g in pairs if other is formula for p in g["params"]]
