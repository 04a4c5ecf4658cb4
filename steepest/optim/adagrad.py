"""Adagrad: a step along the gradient, scaled by the size of all gradients so far.

Duchi, Hazan & Singer 2011, Figure 1, https://jmlr.org/papers/v12/duchi11a.html
Differs from Duchi et al., as torch does: the learning rate may decay, the sum may start above 0.
Differs from torch: a group may be added after the first step; a sparse gradient may be decayed.
"""

import torch

from steepest.formula import sqrt
from steepest.optim.optimizer import Optimizer


def adagrad(
    p, g, sum,
    *, step, lr=1e-2, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10,
):  # fmt: skip
    if sum is None:
        sum = initial_accumulator_value
    if weight_decay != 0:
        g = g + weight_decay * p
    sum = sum + g * g
    decayed_lr = lr / (1 + (step - 1) * lr_decay)
    p = p - decayed_lr * g / (sqrt(sum) + eps)
    return p, sum


class Adagrad(
    Optimizer, formula=adagrad, options=("foreach", "*", "maximize", "differentiable", "fused")
):
    """Adagrad, with a learning rate that may decay as 1 / (1 + (step - 1) * lr_decay)."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        for group in self.param_groups:  # torch's makes its state at once, and expects it loaded
            start = group["initial_accumulator_value"]
            for p in group["params"]:
                value = complex(start, start) if p.is_complex() else start
                total = torch.full_like(p, value, memory_format=torch.preserve_format)
                self.state[p] = {
                    "step": torch.tensor(0.0, dtype=torch.float32, device="cpu"),
                    "sum": total,
                }

    def share_memory(self) -> None:
        """Move the sums to shared memory, so that several processes can train one model."""
        for entry in self.state.values():
            entry["sum"].share_memory_()
