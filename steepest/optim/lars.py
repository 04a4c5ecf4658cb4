"""LARS: SGD with momentum whose gradient is made as long, for every matrix, as the matrix.

You, Gitman & Ginsburg 2017, Algorithm 1, https://arxiv.org/abs/1708.03888
Differs from You et al., as common implementations do: lr multiplies the whole velocity, as in
torch's SGD; parameters of fewer than two dimensions (biases, norms) take plain momentum, without
weight decay; lr does not decay by itself.
"""

from steepest.formula import norm, rank, where
from steepest.optim.optimizer import Optimizer


def lars(
    p, g, momentum_buffer,
    *, lr=1e-3, momentum=0.9, dampening=0.0, weight_decay=0.0, nesterov=False,
    trust_coefficient=1e-3,
):  # fmt: skip
    if rank(p) > 1:
        size = norm(p)
        length = norm(g) + weight_decay * size
        local_lr = where(size == 0, 1.0, where(length == 0, 1.0, trust_coefficient * size / length))
        g = local_lr * (g + weight_decay * p)
    if momentum != 0:
        momentum_buffer = momentum * momentum_buffer + (1 - dampening) * g
        if nesterov:
            g = g + momentum * momentum_buffer
        else:
            g = momentum_buffer
    p = p - lr * g
    return p, momentum_buffer


class LARS(Optimizer, formula=lars):
    """Momentum for large batches: every matrix moves by a part of its own norm."""
