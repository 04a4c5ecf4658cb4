"""ScheduleFreeAdamW: AdamW that needs no schedule, for it averages its iterates as it goes.

Defazio et al. 2024, Algorithm 1, https://arxiv.org/abs/2405.15682
Differs from Algorithm 1, as the authors' code (schedulefree) does: the mean of squares is corrected
for its bias, which they write as a factor of the learning rate; a step's weight in the average is
that of the largest learning rate so far.
"""

from steepest.formula import maximum, minimum, sqrt
from steepest.optim.schedule_free import ScheduleFree


def schedule_free_adamw(
    p, g, z, exp_avg_sq, weight_sum, lr_max,
    *, step, lr=2.5e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, warmup_steps=0, r=0.0,
    weight_lr_power=2.0,
):  # fmt: skip
    beta1, beta2 = betas
    if z is None:
        z = p
    if warmup_steps > 0:
        lr = lr * minimum(step / warmup_steps, 1.0)
    lr_max = maximum(lr_max, lr)
    weight = step**r * lr_max**weight_lr_power
    weight_sum = weight_sum + weight
    part = 0.0
    if weight_sum > 0:
        part = weight / weight_sum
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g * g
    v_hat = exp_avg_sq / (1 - beta2**step)
    update = g / (sqrt(v_hat) + eps)
    if weight_decay != 0:
        update = update + weight_decay * p
    p = p + part * (z - p) - lr * (1 - beta1 * (1 - part)) * update
    z = z - lr * update
    return p, z, exp_avg_sq, weight_sum, lr_max


class ScheduleFreeAdamW(ScheduleFree, formula=schedule_free_adamw):
    """AdamW without a schedule; evaluate `with optimizer.averaged():`."""
