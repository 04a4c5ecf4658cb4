"""SGD: a step down the gradient, or down its running sum.

Momentum: Polyak 1964; in the form of Sutskever et al. 2013, equations 1 to 4,
https://proceedings.mlr.press/v28/sutskever13.html
Differs from Sutskever et al., as torch does: the learning rate multiplies the whole velocity; the
first gradient enters it undampened; Nesterov's gradient is taken at p, which stands for the paper's
look-ahead point.
"""

from steepest.optim.optimizer import Optimizer


def sgd(
    p, g, momentum_buffer,
    *, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False,
):  # fmt: skip
    if weight_decay != 0:
        g = g + weight_decay * p
    if momentum != 0:
        if momentum_buffer is None:
            momentum_buffer = g
        else:
            momentum_buffer = momentum * momentum_buffer + (1 - dampening) * g
        if nesterov:
            g = g + momentum * momentum_buffer
        else:
            g = momentum_buffer
    p = p - lr * g
    return p, momentum_buffer


class SGD(Optimizer, formula=sgd, options=("*", "maximize", "foreach", "differentiable", "fused")):
    """Stochastic gradient descent, with momentum, Nesterov's momentum and weight decay."""
