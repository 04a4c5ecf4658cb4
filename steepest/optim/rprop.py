"""Rprop: a step by the gradient's sign, longer while the sign stays and shorter when it turns.

Riedmiller & Braun 1993, equations 4 to 7, https://doi.org/10.1109/ICNN.1993.298623
Without stepping back: Igel & Hüsken 2003, iRprop-, https://doi.org/10.1016/S0925-2312(01)00700-7
Differs from Riedmiller & Braun, as torch does: an element whose sign turned stays where it is, and
takes part again at the next step; they undo its last step.
Differs from torch where the product of two gradients is subnormal: a kernel takes it as zero.
"""

from steepest.formula import maximum, minimum, sign, where
from steepest.optim.optimizer import Optimizer


def rprop(
    p, g, prev, step_size,
    *, step, lr=1e-2, etas=(0.5, 1.2), step_sizes=(1e-6, 50),
):  # fmt: skip
    if step_size is None:
        step_size = lr
    shorter, longer = etas
    shortest, longest = step_sizes
    agreement = g * prev
    shrunk = where(agreement < 0, shorter * step_size, step_size)
    step_size = where(agreement > 0, longer * step_size, shrunk)
    step_size = minimum(maximum(step_size, shortest), longest)
    g = where(agreement < 0, 0.0, g)
    p = p - step_size * sign(g)
    prev = g
    return p, prev, step_size


class Rprop(
    Optimizer,
    formula=rprop,
    options=("*", "capturable", "foreach", "maximize", "differentiable"),
):
    """Resilient backpropagation: every element has a step size of its own."""
