"""Adadelta: a step along the gradient, scaled by the running sizes of past steps and gradients.

Zeiler 2012, Algorithm 1, https://arxiv.org/abs/1212.5701
Differs from Zeiler, as torch does: the step is multiplied by a learning rate (default 1), which the
running mean of past steps does not see.
"""

from steepest.formula import sqrt
from steepest.optim.optimizer import Optimizer


def adadelta(
    p, g, square_avg, acc_delta,
    *, step, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0,
):  # fmt: skip
    if weight_decay != 0:
        g = g + weight_decay * p
    square_avg = rho * square_avg + (1 - rho) * g * g
    delta = sqrt(acc_delta + eps) / sqrt(square_avg + eps) * g
    acc_delta = rho * acc_delta + (1 - rho) * delta * delta
    p = p - lr * delta
    return p, square_avg, acc_delta


class Adadelta(
    Optimizer,
    formula=adadelta,
    options=("foreach", "*", "capturable", "maximize", "differentiable"),
):
    """Adadelta: no learning rate to tune, as the paper has it."""
