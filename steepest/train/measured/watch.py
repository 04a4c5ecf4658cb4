"""Watch: the norm of the gradients and how far each parameter moved, now and then."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from steepest.optim import Optimizer

MOST_COPIED = 16_000_000  # numbers of all parameters; 64 MB are copied for a look at one update


class Watch:
    """Look at one update: the gradients before it, the parameters before and after.

    An optimizer with `norms=True` sums all that in its own pass, for any size. Else the parameters
    are copied for the one update, if they are few enough; the gradients' norm is always taken.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        # The gradients of others, which no zero_grad of the optimizer clears, only add up.
        updated = {id(p) for group in optimizer.param_groups for p in group["params"]}
        every = model.named_parameters()
        named = {name: p for name, p in every if p.requires_grad and id(p) in updated}
        self.names = list(named)
        self.parameters: list[Tensor] = list(named.values())
        self.optimizer = optimizer
        self._copies = sum(p.numel() for p in self.parameters) <= MOST_COPIED
        self._before: list[Tensor] = []
        self._norms: list[Tensor] = []  # of the gradients, times the scale
        self._scale = 1.0

    @torch.no_grad()
    def before(self, scale: float) -> None:
        """Look at the gradients, which hold `scale` times their value, and the parameters."""
        gradients = [_dense(p.grad) for p in self.parameters if p.grad is not None]
        self._norms, self._scale = _norms(gradients) if gradients else [], scale
        self._before = [p.clone() for p in self.parameters] if self._copies else []

    def take(self, norm: Tensor | None) -> None:
        """Take the gradients' norm from a step that shows no gradients."""
        self._norms = [] if norm is None else [norm]

    @torch.no_grad()
    def after(self) -> dict[str, Any]:
        """Return `gradient_norm` and `ratios`: update norm / parameter norm by parameter name."""
        row: dict[str, Any] = {}
        norms = list(self._norms)
        if self._before:
            pairs = zip(self.parameters, self._before, strict=True)
            norms += _norms([*(p - before for p, before in pairs), *self.parameters])
        found = torch.stack(norms).tolist() if norms else []  # one wait for an accelerator
        if count := len(self._norms):
            row["gradient_norm"] = math.hypot(*found[:count]) / self._scale
        if self._before:
            half = count + len(self.names)
            parts = zip(self.names, found[count:half], found[half:], strict=True)
            row["ratios"] = {name: move / p if p else math.nan for name, move, p in parts}
        elif isinstance(self.optimizer, Optimizer) and (norms := self.optimizer.norms):
            parts = norms.by_parameter.items()
            row["ratios"] = {self._name(label): part.ratio for label, part in parts}
        self._before, self._norms = [], []
        return row

    def _name(self, label: Any) -> str:
        """Return the model's name of what an optimizer without names calls (group, index)."""
        if isinstance(label, str):
            return label
        group, index = label
        p = self.optimizer.param_groups[group]["params"][index]
        names = {id(q): name for name, q in zip(self.names, self.parameters, strict=True)}
        return names.get(id(p), str(label))


def _dense(gradient: Tensor) -> Tensor:
    """Return the numbers of a gradient that may be sparse."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _norms(tensors: list[Tensor]) -> list[Tensor]:
    """Return the norm of each tensor, in one call for all."""
    return list(torch._foreach_norm(tensors))  # pyright: ignore[reportPrivateImportUsage]
