"""SparseAdam: Adam on the rows that a sparse gradient has; the others and their moments wait.

Kingma & Ba 2015, end of section 2, https://arxiv.org/abs/1412.6980
Differs from Kingma & Ba, as torch does: the moments of a row without a gradient do not decay, and
its bias is corrected by the count of all updates.
Differs from torch: lr and eps may be 0; a dense gradient is refused before any parameter has
changed, and a group with a parameter that cannot serve when it is added.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from steepest.errors import SteepestError
from steepest.formula import sqrt
from steepest.kernels.rows import lazy
from steepest.optim.optimizer import Optimizer


@lazy
def sparse_adam(p, g, exp_avg, exp_avg_sq, *, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
    beta1, beta2 = betas
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g * g
    corrected_lr = lr * sqrt(1 - beta2**step) / (1 - beta1**step)
    p = p - corrected_lr * exp_avg / (sqrt(exp_avg_sq) + eps)
    return p, exp_avg, exp_avg_sq


class SparseAdam(Optimizer, formula=sparse_adam, options=("maximize",)):
    """Adam for sparse gradients, such as those of `nn.Embedding(sparse=True)`."""

    @classmethod
    def cannot_serve(cls, p: Tensor) -> str | None:
        """Ask for parameters that can have a sparse gradient."""
        if p.layout is torch.strided and not p.is_complex():
            return None
        return (
            "a parameter must be dense and real: the gradient alone is sparse "
            "(nn.Embedding(sparse=True))"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state by torch's keys; `step` is a whole number, as torch's has it."""
        saved = super().state_dict()
        for entry in saved["state"].values():
            if "step" in entry:
                entry["step"] = int(entry["step"])
        return saved

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the rows that each sparse gradient has.

        Raises:
            SteepestError: a gradient is dense; nothing has changed.
        """

        def checked() -> Any:
            loss = None if closure is None else closure()
            self._check_gradients()
            return loss

        return super().step(checked)

    step.hooked = True  # pyright: ignore[reportFunctionMemberAccess] # super().step calls the hooks

    def _check_gradients(self) -> None:
        for i, group in enumerate(self.param_groups):
            for k, p in enumerate(group["params"]):
                if p.grad is not None and not p.grad.is_sparse:
                    raise SteepestError(
                        f"SparseAdam: a gradient must be sparse, that of parameter {k} of group "
                        f"{i} is dense, of shape {tuple(p.shape)}; give it to Adam instead"
                    )
