"""Lion: a step by the sign of the gradient's running mean, into which the gradient weighs more.

Chen et al. 2023, Algorithm 2, https://arxiv.org/abs/2302.06675
"""

from steepest.formula import sign
from steepest.optim.optimizer import Optimizer


def lion(
    p, g, exp_avg,
    *, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0,
):  # fmt: skip
    beta1, beta2 = betas
    update = sign(beta1 * exp_avg + (1 - beta1) * g)
    exp_avg = beta2 * exp_avg + (1 - beta2) * g
    p = (1 - lr * weight_decay) * p - lr * update
    return p, exp_avg


class Lion(Optimizer, formula=lion):
    """Every element moves by lr; wants an lr of a third to a tenth of AdamW's."""
