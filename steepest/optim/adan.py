"""Adan: a step along the running means of the gradient and of its change, scaled by their size.

Xie et al. 2022, Algorithm 1, https://arxiv.org/abs/2208.06677
Differs from the paper, as its authors' code does: the three means are corrected for their bias, and
betas are what a mean keeps (the paper's are one minus those).
Differs from the authors' code: the state is the last gradient itself, not its negative.
"""

from steepest.formula import sqrt
from steepest.optim.optimizer import Optimizer


def adan(
    p, g, exp_avg, exp_avg_diff, exp_avg_sq, prev,
    *, step, lr=1e-3, betas=(0.98, 0.92, 0.99), eps=1e-8, weight_decay=0.0, no_prox=False,
):  # fmt: skip
    beta1, beta2, beta3 = betas
    if prev is None:
        prev = g
    change = g - prev
    ahead = g + beta2 * change
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_diff = beta2 * exp_avg_diff + (1 - beta2) * change
    exp_avg_sq = beta3 * exp_avg_sq + (1 - beta3) * ahead * ahead
    m_hat = exp_avg / (1 - beta1**step)
    v_hat = exp_avg_diff / (1 - beta2**step)
    n_hat = exp_avg_sq / (1 - beta3**step)
    update = (m_hat + beta2 * v_hat) / (sqrt(n_hat) + eps)
    if no_prox:
        p = (1 - lr * weight_decay) * p - lr * update
    else:
        p = (p - lr * update) / (1 + lr * weight_decay)
    prev = g
    return p, exp_avg, exp_avg_diff, exp_avg_sq, prev


class Adan(Optimizer, formula=adan):
    """Adaptive Nesterov momentum; its weight decay is a proximal step, with `no_prox` AdamW's."""
