"""Adam: a step along the gradient's running mean, scaled by its running size.

Kingma & Ba 2015, Algorithm 1, https://arxiv.org/abs/1412.6980
AMSGrad: Reddi et al. 2018, Algorithm 2, https://openreview.net/forum?id=ryQu7f-RZ
Decoupled weight decay: Loshchilov & Hutter 2019, Algorithm 2, https://arxiv.org/abs/1711.05101
Differs from Reddi et al., as torch does: the bias is corrected, after the maximum is taken; eps is
added to the root; lr and beta1 stay as they are.
Differs from torch at the ends of float32: the corrected mean of squares is formed before its root,
so gradients above 1.8e19 make a step of zero, torch's above 5.8e20; and an infinite gradient leaves
exp_avg infinite where torch's lerp leaves NaN (the parameter is NaN in both).
"""

from steepest.formula import maximum, sqrt
from steepest.optim.hyper import LAYOUT
from steepest.optim.optimizer import Optimizer


def adam(
    p, g, exp_avg, exp_avg_sq, max_exp_avg_sq,
    *, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False,
    decoupled_weight_decay=False,
):  # fmt: skip
    beta1, beta2 = betas
    if weight_decay != 0:
        if decoupled_weight_decay:
            p = (1 - lr * weight_decay) * p
        else:
            g = g + weight_decay * p
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g * g
    second_moment = exp_avg_sq
    if amsgrad:
        max_exp_avg_sq = maximum(max_exp_avg_sq, exp_avg_sq)
        second_moment = max_exp_avg_sq
    m_hat = exp_avg / (1 - beta1**step)
    v_hat = second_moment / (1 - beta2**step)
    p = p - lr * m_hat / (sqrt(v_hat) + eps)
    return p, exp_avg, exp_avg_sq, max_exp_avg_sq


class Adam(Optimizer, formula=adam, options=(*LAYOUT, "decoupled_weight_decay")):
    """Adam with L2 weight decay; `AdamW` decouples the decay from the moments."""
