"""NAdam: Adam that looks ahead, with Nesterov's momentum, which grows as training goes on.

Dozat 2016, Algorithm 2 and section 3, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ
Decoupled weight decay: Loshchilov & Hutter 2019, Algorithm 2, https://arxiv.org/abs/1711.05101
Differs from Dozat, as torch does: the running mean is beta1's, the schedule of momentum weighs it.
Differs from torch in the precision of `mu_product`: float64, torch's is float32.
"""

from steepest.formula import sqrt
from steepest.optim.optimizer import Optimizer


def nadam(
    p, g, mu_product, exp_avg, exp_avg_sq,
    *, step, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, momentum_decay=4e-3,
    decoupled_weight_decay=False,
):  # fmt: skip
    beta1, beta2 = betas
    if mu_product is None:
        mu_product = 1.0
    if weight_decay != 0:
        if decoupled_weight_decay:
            p = (1 - lr * weight_decay) * p
        else:
            g = g + weight_decay * p
    mu = beta1 * (1 - 0.5 * 0.96 ** (step * momentum_decay))
    next_mu = beta1 * (1 - 0.5 * 0.96 ** ((step + 1) * momentum_decay))
    mu_product = mu_product * mu
    exp_avg = exp_avg + (1 - beta1) * (g - exp_avg)  # NaN after an infinite g, as torch's lerp
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g * g
    v_hat = exp_avg_sq / (1 - beta2**step)
    here = (1 - mu) / (1 - mu_product)
    ahead = next_mu / (1 - mu_product * next_mu)
    p = p - lr * (here * g + ahead * exp_avg) / (sqrt(v_hat) + eps)
    return p, mu_product, exp_avg, exp_avg_sq


class NAdam(
    Optimizer,
    formula=nadam,
    options=("*", "foreach", "maximize", "capturable", "differentiable"),
):
    """Adam with Nesterov's momentum, of which `momentum_decay` sets how fast it grows."""
