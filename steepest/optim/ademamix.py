"""AdEMAMix: AdamW whose step also follows a second, much slower mean of the gradient.

Pagliardini, Ablin & Grangier 2024, Algorithm 1, https://arxiv.org/abs/2409.03137
Over the first `alpha_warmup` and `beta3_warmup` steps alpha grows from 0 and the slow mean's memory
from the fast one's, by the paper's schedulers for alpha and beta3 (section 3).
"""

from steepest.formula import exp, log, minimum, sqrt
from steepest.optim.optimizer import Optimizer


def ademamix(
    p, g, exp_avg, exp_avg_sq, exp_avg_slow,
    *, step, lr=1e-3, betas=(0.9, 0.999, 0.9999), alpha=2.0, beta3_warmup=None, alpha_warmup=None,
    eps=1e-8, weight_decay=0.0,
):  # fmt: skip
    beta1, beta2, beta3 = betas
    if alpha_warmup is not None:
        alpha = minimum(step * alpha / alpha_warmup, alpha)
    if beta3_warmup is not None:
        # A straight line in 1 / log(beta), which is the mean's half-life up to a factor.
        part = minimum(step / beta3_warmup, 1.0)
        beta3 = exp(1 / ((1 - part) / log(beta1) + part / log(beta3)))
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g * g
    exp_avg_slow = beta3 * exp_avg_slow + (1 - beta3) * g
    m_hat = exp_avg / (1 - beta1**step)
    v_hat = exp_avg_sq / (1 - beta2**step)
    update = (m_hat + alpha * exp_avg_slow) / (sqrt(v_hat) + eps)
    p = (1 - lr * weight_decay) * p - lr * update
    return p, exp_avg, exp_avg_sq, exp_avg_slow


class AdEMAMix(Optimizer, formula=ademamix):
    """AdamW that remembers gradients of thousands of steps ago."""
