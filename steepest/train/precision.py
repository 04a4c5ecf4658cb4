"""Automatic mixed precision: what is computed in 16 bits, and how gradients survive it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

PRECISIONS = ("float32", "bfloat16", "float16")


class Precision:
    """Forward and loss under `torch.autocast`; for float16 also torch's `GradScaler`.

    A step whose scaled gradients overflow is left out and the scale lowered, as GradScaler does.

    Attributes:
        forward: the context of forward and loss.
        scaler: the GradScaler of float16, else None.
    """

    def __init__(self, precision: str, device: torch.device) -> None:
        self.forward: AbstractContextManager[Any] = nullcontext()
        self.scaler: torch.amp.GradScaler | None = None
        if precision != "float32":
            self.forward = torch.autocast(device.type, getattr(torch, precision))
        if precision == "float16":
            self.scaler = torch.amp.GradScaler(device.type)

    @property
    def scale(self) -> float:
        """What the gradients are multiplied with."""
        return 1.0 if self.scaler is None else self.scaler.get_scale()

    def computing(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Return a model or a loss that computes within `forward`; float32 needs no context."""
        if isinstance(self.forward, nullcontext):  # which takes a microsecond
            return function

        def computed(*arguments: Any) -> Tensor:
            with self.forward:
                return function(*arguments)

        return computed

    def scaled(self, loss: Tensor, share: float) -> Tensor:
        """Return the loss of a batch that is a share of an update, ready for backward."""
        if share != 1:
            loss = loss * share
        return loss if self.scaler is None else self.scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the scale, for those who look at them before the step."""
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Update the parameters."""
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()
