"""Schedule-free: what both optimizers share, a point to learn at and another to evaluate at.

Defazio et al. 2024, equations 3 to 5, https://arxiv.org/abs/2405.15682
While it learns, p holds y, where gradients are taken; x, the average that is the result, lies on
the line through y and z, so it needs no memory.
Differs from the authors' code (schedulefree): an optimizer starts out learning, so that no call of
`train()` can be forgotten; a saved state need not be one of evaluation; every parameter counts its
own steps, which matters where one has no gradient.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from steepest.errors import HyperparameterError
from steepest.optim.optimizer import Optimizer


def _momentum(group: Mapping[str, Any]) -> float:
    """Return how much of x there is in y."""
    beta = float(group["betas"][0] if "betas" in group else group["momentum"])
    if beta == 0:
        raise HyperparameterError(
            "schedule-free: without momentum y is z, from which x cannot be told; give a momentum "
            "(betas[0] of AdamW) between 0 and 1, not 0"
        )
    return beta


def result(p: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor | None:
    """Return x of p = y = (1 - momentum) z + momentum x; None before the first step."""
    z = state.get("z")
    return None if z is None else torch.lerp(p, z, 1 - 1 / _momentum(group))


class ScheduleFree(Optimizer):
    """An optimizer with a point to learn at and another to evaluate at.

    `with optimizer.averaged():` evaluates and returns to learning bit for bit; `eval()` and
    `train()` are the same as two calls, in which p is rounded.
    """

    stand_in = staticmethod(result)

    @torch.no_grad()
    def eval(self) -> None:
        """Turn every parameter into what is evaluated; no step is made until `train`."""
        self._refuse_swapped("switched")
        for group in self.param_groups:
            if group.get("train_mode", True):
                for p in group["params"]:
                    x = result(p, self.state.get(p, {}), group)
                    if x is not None:
                        p.copy_(x)
            group["train_mode"] = False

    @torch.no_grad()
    def train(self) -> None:
        """Turn every parameter into what learns, after `eval`."""
        self._refuse_swapped("switched")
        for group in self.param_groups:
            if not group.get("train_mode", True):
                for p in group["params"]:
                    z = self.state.get(p, {}).get("z")
                    if z is not None:
                        p.lerp_(z, 1 - _momentum(group))
            group["train_mode"] = True
