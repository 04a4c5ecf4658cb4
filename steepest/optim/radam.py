"""RAdam: Adam that steps by its running mean alone until its mean of squares is to be trusted.

Liu et al. 2020, Algorithm 2, https://arxiv.org/abs/1908.03265
Decoupled weight decay: Loshchilov & Hutter 2019, Algorithm 2, https://arxiv.org/abs/1711.05101
Differs from Liu et al., as torch and their own code do: the mean of squares serves from a length of
5 on (they write 4), and eps is added to its root before the bias is corrected (they have none).
Differs from torch where a gradient is infinite and beta1 at most 0.5: exp_avg is infinite for one
step before it is NaN, as torch's is at once.
"""

from steepest.formula import sqrt
from steepest.optim.optimizer import Optimizer


def radam(
    p, g, exp_avg, exp_avg_sq,
    *, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled_weight_decay=False,
):  # fmt: skip
    beta1, beta2 = betas
    if weight_decay != 0:
        if decoupled_weight_decay:
            p = (1 - lr * weight_decay) * p
        else:
            g = g + weight_decay * p
    exp_avg = exp_avg + (1 - beta1) * (g - exp_avg)  # NaN after an infinite g, as torch's lerp
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g * g
    m_hat = exp_avg / (1 - beta1**step)
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / (1 - beta2**step)
    if length > 5:
        variance_now = (length - 4) * (length - 2) * longest
        variance_then = (longest - 4) * (longest - 2) * length
        correction = sqrt(variance_now / variance_then * (1 - beta2**step))
        p = p - lr * correction * m_hat / (sqrt(exp_avg_sq) + eps)
    else:
        p = p - lr * m_hat
    return p, exp_avg, exp_avg_sq


class RAdam(
    Optimizer,
    formula=radam,
    options=("*", "foreach", "maximize", "capturable", "differentiable"),
):
    """Adam whose variance is rectified, so that it needs no warmup."""
