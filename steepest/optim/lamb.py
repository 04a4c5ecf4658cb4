"""LAMB: Adam's step, as long for every tensor as the tensor itself.

You et al. 2020, Algorithm 2, https://arxiv.org/abs/1904.00962
The function phi of a tensor's norm is the norm itself; where that or the step's is 0, the ratio
is 1. `bias_correction=False` leaves the moments as they are, as some implementations do.
"""

from steepest.formula import norm, sqrt, where
from steepest.optim.optimizer import Optimizer


def lamb(
    p, g, exp_avg, exp_avg_sq,
    *, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, bias_correction=True,
):  # fmt: skip
    beta1, beta2 = betas
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g * g
    m_hat = exp_avg
    v_hat = exp_avg_sq
    if bias_correction:
        m_hat = exp_avg / (1 - beta1**step)
        v_hat = exp_avg_sq / (1 - beta2**step)
    update = m_hat / (sqrt(v_hat) + eps) + weight_decay * p
    size = norm(p)
    length = norm(update)
    trust_ratio = where(size == 0, 1.0, where(length == 0, 1.0, size / length))
    p = p - lr * trust_ratio * update
    return p, exp_avg, exp_avg_sq


class LAMB(Optimizer, formula=lamb):
    """Adam for large batches: lr is the part of its norm by which a tensor moves."""
