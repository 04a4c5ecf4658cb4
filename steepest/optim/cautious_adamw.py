"""CautiousAdamW: AdamW that moves only the elements whose step goes down their gradient.

Liang et al. 2024, Algorithm 1, https://arxiv.org/abs/2411.16085
Differs from Liang et al., as their code does: the step grows by 1 over the part that moves, at
most a thousandfold, where they write d / (d_moving + 1). Weight decay is applied before the step,
as in torch's AdamW. A product of two signs tells whether they agree: one of two tiny numbers is 0.
"""

from steepest.formula import maximum, mean, sign, sqrt, where
from steepest.optim.optimizer import Optimizer


def cautious_adamw(
    p, g, exp_avg, exp_avg_sq,
    *, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2,
):  # fmt: skip
    beta1, beta2 = betas
    p = (1 - lr * weight_decay) * p
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g * g
    m_hat = exp_avg / (1 - beta1**step)
    v_hat = exp_avg_sq / (1 - beta2**step)
    mask = where(sign(exp_avg) * g > 0, 1.0, 0.0)
    part = maximum(mean(mask), 1e-3)
    p = p - lr * mask / part * m_hat / (sqrt(v_hat) + eps)
    return p, exp_avg, exp_avg_sq


class CautiousAdamW(Optimizer, formula=cautious_adamw):
    """AdamW without the elements whose momentum disagrees with the gradient."""
