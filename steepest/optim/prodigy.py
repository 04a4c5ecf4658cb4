"""Prodigy: Adam that finds its own step size, from how far the parameters have come.

Mishchenko & Defazio 2024, Algorithm 4, https://arxiv.org/abs/2306.06101
The estimate `d` is one for all parameters; each of them keeps it in its state.
Differs from Algorithm 4, as the authors' code (prodigyopt) does: eps is scaled by the new d, the
step by the old one; the first estimate that exceeds d0 replaces it at once.
Differs from prodigyopt: every param group may have an lr of its own, which weighs its part of the
estimate.
"""

import math

from steepest.formula import maximum, minimum, sqrt, total, where
from steepest.optim.optimizer import Optimizer


def prodigy(
    p, g, p0, s, exp_avg, exp_avg_sq, d, d_max, d_numerator,
    *, step, lr=1.0, betas=(0.9, 0.999), beta3=None, eps=1e-8, weight_decay=0.0, decouple=True,
    use_bias_correction=False, safeguard_warmup=False, d0=1e-6, d_coef=1.0, growth_rate=math.inf,
):  # fmt: skip
    beta1, beta2 = betas
    if beta3 is None:
        beta3 = sqrt(beta2)
    if p0 is None:
        p0 = p
    if d is None:
        d = d0
    if d_max is None:
        d_max = d0
    scaled_lr = d * lr
    if use_bias_correction:
        scaled_lr = scaled_lr * sqrt(1 - beta2**step) / (1 - beta1**step)
    if weight_decay != 0 and not decouple:
        g = g + weight_decay * p
    exp_avg = beta1 * exp_avg + d * (1 - beta1) * g
    exp_avg_sq = beta2 * exp_avg_sq + d * d * (1 - beta2) * g * g
    if safeguard_warmup:
        s = beta3 * s + d / d0 * d * g
    else:
        s = beta3 * s + d / d0 * scaled_lr * g
    d_numerator = beta3 * d_numerator + total(d / d0 * scaled_lr * g * (p0 - p))
    denominator = total(abs(s))
    idle = denominator == 0  # every gradient was 0 so far, or every lr
    d_hat = where(idle, d, d_coef * d_numerator / where(idle, 1.0, denominator))
    d_max = maximum(d_max, d_hat)
    d = minimum(d_max, where(d == d0, maximum(d, d_hat), d) * growth_rate)
    if weight_decay != 0 and decouple:
        p = (1 - scaled_lr * weight_decay) * p
    p = p - scaled_lr * exp_avg / (sqrt(exp_avg_sq) + d * eps)
    return p, p0, s, exp_avg, exp_avg_sq, d, d_max, d_numerator


class Prodigy(Optimizer, formula=prodigy):
    """Adam without a learning rate to tune: lr=1 scales the step size that it finds."""
