"""ScheduleFreeSGD: SGD that needs no schedule, for it averages its iterates as it goes.

Defazio et al. 2024, equations 3 to 5, https://arxiv.org/abs/2405.15682
The weights of the average, and the warmup: section 4.1 and the authors' code (schedulefree).
"""

from steepest.formula import maximum, minimum
from steepest.optim.schedule_free import ScheduleFree


def schedule_free_sgd(
    p, g, z, weight_sum, lr_max,
    *, step, lr=1.0, momentum=0.9, weight_decay=0.0, warmup_steps=0, r=0.0, weight_lr_power=2.0,
):  # fmt: skip
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
    if weight_decay != 0:
        g = g + weight_decay * p
    p = p + part * (z - p) - lr * (1 - momentum * (1 - part)) * g
    z = z - lr * g
    return p, z, weight_sum, lr_max


class ScheduleFreeSGD(ScheduleFree, formula=schedule_free_sgd):
    """SGD without a schedule; evaluate `with optimizer.averaged():`."""
