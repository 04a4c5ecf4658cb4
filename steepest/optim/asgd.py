"""ASGD: SGD whose running average, `ax`, is the result.

Polyak & Juditsky 1992, https://doi.org/10.1137/0330046
The decay of the step: Xu 2011, Algorithm 1, https://arxiv.org/abs/1107.2490
Differs from Polyak & Juditsky, as torch does: the average begins at step t0; p stays the last
iterate, its average is the state `ax`.
Differs from torch in the precision of `eta` and `mu`: float64, torch's are float32.
"""

from steepest.formula import maximum
from steepest.optim.optimizer import Optimizer


def asgd(
    p, g, eta, mu, ax,
    *, step, lr=1e-2, lambd=1e-4, alpha=0.75, t0=1e6, weight_decay=0.0,
):  # fmt: skip
    if eta is None:
        eta = lr
    if mu is None:
        mu = 1.0
    if weight_decay != 0:
        g = g + weight_decay * p
    p = (1 - lambd * eta) * p - eta * g
    if mu == 1:
        ax = p
    else:
        ax = ax + mu * (p - ax)
    eta = lr / (1 + lambd * lr * step) ** alpha
    mu = 1 / maximum(1, step - t0)
    return p, eta, mu, ax


class ASGD(
    Optimizer,
    formula=asgd,
    options=("foreach", "maximize", "differentiable", "capturable"),
):
    """SGD that keeps the average of its iterates from step t0 on."""
