"""Adafactor: steps scaled by a second moment of which rows' and columns' means alone are kept.

Shazeer & Stern 2018, Algorithms 4 and 5, https://arxiv.org/abs/1804.04235
Differs from Shazeer & Stern, as torch does: lr bounds the relative step (0.01 theirs) and decouples
weight decay; means stand for sums; eps[0] bounds the second moment's root instead of being added to
squares, and is the dtype's rounding unit where it is None.
Differs from torch: gradients may be sparse.
"""

from torch import Tensor

from steepest.formula import (
    column_mean,
    epsilon,
    maximum,
    mean,
    minimum,
    rank,
    row_mean,
    sqrt,
    where,
)
from steepest.optim.optimizer import Optimizer


def adafactor(
    p, g, row_var, col_var, variance,
    *, step, lr=1e-2, beta2_decay=-0.8, eps=(None, 1e-3), d=1.0, weight_decay=0.0,
):  # fmt: skip
    eps1, eps2 = eps
    if eps1 is None:
        eps1 = epsilon(p)
    rho = step**beta2_decay
    size = sqrt(mean(p * p))
    alpha = where(size > eps2, size, eps2) * minimum(lr, step**-0.5)  # NaN gives eps2, as in torch
    if weight_decay != 0:
        p = (1 - lr * weight_decay) * p
    if rank(p) > 1:
        if row_var is None:
            row_var = row_mean(g * g)
        if col_var is None:
            col_var = column_mean(g * g)
        row_var = row_var + rho * (row_mean(g * g) - row_var)
        col_var = col_var + rho * (column_mean(g * g) - col_var)
        row_share = row_var / maximum(column_mean(row_var), eps1)
        v = row_share * col_var
    else:
        variance = variance + rho * (g * g - variance)
        v = variance
    update = g / sqrt(maximum(v, eps1 * eps1))
    excess = sqrt(mean(update * update)) / d
    p = p - alpha * update / where(excess > 1, excess, 1.0)  # NaN gives 1, as in torch
    return p, row_var, col_var, variance


class Adafactor(Optimizer, formula=adafactor, options=("*", "foreach", "maximize")):
    """Adam's scaling with memory for one number a row and one a column."""

    @classmethod
    def cannot_serve(cls, p: Tensor) -> str | None:
        """Ask for real parameters."""
        return "a parameter must be real: give others to AdamW" if p.is_complex() else None
