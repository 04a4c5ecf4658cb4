"""ChainedScheduler: several schedulers at once, each of which multiplies the lr."""

from collections.abc import Sequence
from typing import Any

import torch.optim.lr_scheduler as torchs
from torch import Tensor
from torch.optim import Optimizer

from steepest.errors import HyperparameterError
from steepest.optim.closed_form import ClosedFormLR


class ChainedScheduler(torchs.ChainedScheduler):
    """Multiply the initial lr by what each scheduler multiplies it by.

    Differs from torch: of schedulers that compute lr from the epoch, the product is taken, in any
    order; a chain of torch's own multiplies the lr that each of them finds, as in torch.

    Raises:
        HyperparameterError: one chain has both kinds, of which the one overwrites the other's lr.
    """

    def __init__(
        self, schedulers: Sequence[torchs.LRScheduler], optimizer: Optimizer | None = None
    ) -> None:
        super().__init__(schedulers, optimizer)
        self._closed = [s for s in schedulers if isinstance(s, ClosedFormLR)]
        others = [s for s in schedulers if s not in self._closed]
        if len(schedulers) > 1 and others and any(map(_sets, schedulers)):
            names = ", ".join(type(s).__name__ for s in schedulers)
            raise HyperparameterError(
                "ChainedScheduler: a scheduler of steepest sets the lr of its epoch, over what "
                f"others have made of it, and cannot be chained with them, got {names}: take all "
                "from steepest.optim.lr_scheduler, or multiply schedules in one LambdaLR"
            )
        self._write()

    def step(self) -> None:
        """Go to the next epoch of every scheduler, and set the product."""
        if not self._closed:
            super().step()
            return
        for scheduler in self._closed:
            scheduler.advance()
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """Return torch's keys: the state of each scheduler, and the last lr."""
        return {key: value for key, value in super().state_dict().items() if key != "_closed"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state of this class or of torch's, and set the lr of its epoch.

        Raises: StateError as each scheduler's `load_state_dict`.
        """
        super().load_state_dict(state_dict)
        self._write()

    def _write(self) -> None:
        if self._closed:
            self._closed[0].write(_product(self._closed))
            self._last_lr = self._closed[0].get_last_lr()


def _product(schedulers: Sequence[ClosedFormLR]) -> list[float | Tensor]:
    """Return the initial lrs times what each scheduler makes of one of 1."""
    lrs = schedulers[0].get_lr()
    for scheduler in schedulers[1:]:
        made = zip(lrs, scheduler.get_lr(), scheduler.base_lrs, strict=True)
        lrs = [lr * (new / base if base else 1.0) for lr, new, base in made]
    return lrs


def _sets(scheduler: Any) -> bool:
    """Tell whether a scheduler, or one that it holds, sets the lr of its epoch."""
    held = getattr(scheduler, "_schedulers", ())
    return isinstance(scheduler, ClosedFormLR) or any(map(_sets, held))
