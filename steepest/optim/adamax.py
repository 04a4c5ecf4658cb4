"""Adamax: a step along the gradient's running mean, scaled by its largest recent size.

Kingma & Ba 2015, Algorithm 2, https://arxiv.org/abs/1412.6980
Differs from Kingma & Ba, as torch does: eps is added to each gradient's size (they have none).
Differs from torch where a gradient is infinite: exp_avg stays infinite where torch's lerp leaves
NaN (the parameter is NaN in both).
"""

from steepest.formula import maximum
from steepest.optim.optimizer import Optimizer


def adamax(
    p, g, exp_avg, exp_inf,
    *, step, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0,
):  # fmt: skip
    beta1, beta2 = betas
    if weight_decay != 0:
        g = g + weight_decay * p
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    exp_inf = maximum(beta2 * exp_inf, abs(g) + eps)
    p = p - lr / (1 - beta1**step) * exp_avg / exp_inf
    return p, exp_avg, exp_inf


class Adamax(
    Optimizer,
    formula=adamax,
    options=("foreach", "*", "maximize", "differentiable", "capturable"),
):
    """Adam with the infinity norm in place of the mean of squares."""
