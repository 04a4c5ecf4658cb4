"""RMSprop: a step along the gradient, scaled by its running size.

Tieleman & Hinton 2012, Lecture 6e, https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf
Centered: Graves 2013, equations 38 to 45, https://arxiv.org/abs/1308.0850
Differs from both, as torch does: eps is added to the root (the lecture has none, Graves has it
under the root); the learning rate multiplies the whole velocity.
Differs from torch where a gradient is infinite: grad_avg stays infinite where torch's lerp leaves
NaN (the parameter is NaN in both).
"""

from steepest.formula import sqrt
from steepest.optim.optimizer import Optimizer


def rmsprop(
    p, g, square_avg, momentum_buffer, grad_avg,
    *, step, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False,
):  # fmt: skip
    if weight_decay != 0:
        g = g + weight_decay * p
    square_avg = alpha * square_avg + (1 - alpha) * g * g
    variance = square_avg
    if centered:
        grad_avg = alpha * grad_avg + (1 - alpha) * g
        variance = square_avg - grad_avg * grad_avg
    g = g / (sqrt(variance) + eps)
    if momentum > 0:
        momentum_buffer = momentum * momentum_buffer + g
        g = momentum_buffer
    p = p - lr * g
    return p, square_avg, momentum_buffer, grad_avg


class RMSprop(
    Optimizer, formula=rmsprop, options=("capturable", "foreach", "maximize", "differentiable")
):
    """RMSprop, with momentum, and centered by the running mean of the gradient."""
