"""CautiousLion: Lion that moves only the elements whose step goes down their gradient.

Liang et al. 2024, Algorithm 1, https://arxiv.org/abs/2411.16085
Lion: Chen et al. 2023, Algorithm 2, https://arxiv.org/abs/2302.06675
Differs from Liang et al., as their code does: the step grows by 1 over the part that moves, at
most a thousandfold, where they write d / (d_moving + 1). Weight decay is applied before the step.
"""

from steepest.formula import maximum, mean, sign, where
from steepest.optim.optimizer import Optimizer


def cautious_lion(
    p, g, exp_avg,
    *, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0,
):  # fmt: skip
    beta1, beta2 = betas
    update = sign(beta1 * exp_avg + (1 - beta1) * g)
    exp_avg = beta2 * exp_avg + (1 - beta2) * g
    mask = where(update * g > 0, 1.0, 0.0)
    part = maximum(mean(mask), 1e-3)
    p = (1 - lr * weight_decay) * p - lr * mask / part * update
    return p, exp_avg


class CautiousLion(Optimizer, formula=cautious_lion):
    """Lion without the elements whose momentum disagrees with the gradient."""
