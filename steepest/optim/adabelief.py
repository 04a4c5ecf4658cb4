"""AdaBelief: a step along the gradient's running mean, scaled by how far gradients stray from it.

Zhuang et al. 2020, Algorithm 2, https://arxiv.org/abs/2010.07468
Decoupled weight decay: Loshchilov & Hutter 2019, Algorithm 2, https://arxiv.org/abs/1711.05101
AMSGrad: Reddi et al. 2018, Algorithm 2, https://openreview.net/forum?id=ryQu7f-RZ
Differs from Zhuang et al.'s own package: there is no `rectify` (its default), as in the paper.
"""

from steepest.formula import maximum, sqrt
from steepest.optim.optimizer import Optimizer


def adabelief(
    p, g, exp_avg, exp_avg_var, max_exp_avg_var,
    *, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-16, weight_decay=0.0, amsgrad=False,
    decoupled_weight_decay=True,
):  # fmt: skip
    beta1, beta2 = betas
    if weight_decay != 0:
        if decoupled_weight_decay:
            p = (1 - lr * weight_decay) * p
        else:
            g = g + weight_decay * p
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    surprise = g - exp_avg
    exp_avg_var = beta2 * exp_avg_var + (1 - beta2) * surprise * surprise + eps
    variance = exp_avg_var
    if amsgrad:
        max_exp_avg_var = maximum(max_exp_avg_var, exp_avg_var)
        variance = max_exp_avg_var
    m_hat = exp_avg / (1 - beta1**step)
    s_hat = variance / (1 - beta2**step)
    p = p - lr * m_hat / (sqrt(s_hat) + eps)
    return p, exp_avg, exp_avg_var, max_exp_avg_var


class AdaBelief(Optimizer, formula=adabelief):
    """Adam that takes long steps where gradients are as expected."""
