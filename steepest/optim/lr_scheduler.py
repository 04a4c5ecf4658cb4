"""torch's learning rate schedulers, over the functions of `steepest.schedules`.

    group["lr"] = initial_lr * schedule(last_epoch)

Each class has the signature, the attributes and the state_dict keys of its namesake in
`torch.optim.lr_scheduler`, and works with any `torch.optim.Optimizer`. Each is a torch
`LRScheduler` (our `ReduceLROnPlateau` is torch's, too), as training frameworks ask `isinstance`.

Differs from torch: torch multiplies the lr that it finds in the group, so that it depends on what
happened before; here lr is computed from the epoch alone. So a scheduler may be built or loaded
before or after the optimizer's `load_state_dict`; `optimizer.step` is left as it is, and no order
of calls draws a warning; `load_state_dict` sets the lr of the loaded epoch at once. For the same
reason a change of `group["lr"]` by hand, or by a second scheduler, lasts until the next `step()`,
which warns and sets the lr of its epoch: change `scheduler.base_lrs` instead, or put one product of
schedules into one `LambdaLR`, or one after the other with `schedules.join`; `SequentialLR` and
`ChainedScheduler` serve, too. As in torch, a new scheduler starts from `group["initial_lr"]` where
an earlier one has left it.

`CyclicLR`, `OneCycleLR` and `SequentialLR` are torch's own classes: the first two, which change
momentum or betas, too, compute from the epoch already. They do watch `optimizer.step`.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

import torch.optim.lr_scheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, SequentialLR

from steepest.optim.chained import ChainedScheduler
from steepest.optim.closed_form import ClosedFormLR, at_least_0, check_state, made
from steepest.optim.lr_cosine import CosineAnnealingLR, CosineAnnealingWarmRestarts
from steepest.optim.lr_lambda import LambdaLR, MultiplicativeLR
from steepest.schedules import (
    constant,
    exponential,
    join,
    linear,
    multi_step,
    polynomial,
    step_decay,
)

__all__ = ["ChainedScheduler", "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts",
           "CyclicLR", "ExponentialLR", "LRScheduler", "LambdaLR", "LinearLR", "MultiStepLR",
           "MultiplicativeLR", "OneCycleLR", "PolynomialLR", "ReduceLROnPlateau", "SequentialLR",
           "StepLR"]  # fmt: skip


class StepLR(ClosedFormLR):
    """Multiply lr by `gamma` every `step_size` epochs: `schedules.step_decay`.

    Raises: HyperparameterError as `schedules.step_decay`.
    """

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        schedule = step_decay(step_size, gamma)
        self.step_size, self.gamma = schedule.step_size, schedule.gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Return the lr of each group at `last_epoch`."""
        return self.times(made(step_decay, self.step_size, self.gamma))


class MultiStepLR(ClosedFormLR):
    """Multiply lr by `gamma` at each of the epochs `milestones`: `schedules.multi_step`.

    Raises: HyperparameterError as `schedules.multi_step`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Iterable[int],
        gamma: float = 0.1,
        last_epoch: int = -1,
    ) -> None:
        schedule = multi_step(tuple(milestones), gamma)
        self.milestones, self.gamma = Counter(schedule.milestones), schedule.gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Return the lr of each group at `last_epoch`."""
        return self.times(made(multi_step, tuple(self.milestones.elements()), self.gamma))


class ExponentialLR(ClosedFormLR):
    """Multiply lr by `gamma` every epoch: `schedules.exponential`.

    Raises: HyperparameterError as `schedules.exponential`.
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = exponential(gamma).gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Return the lr of each group at `last_epoch`."""
        return self.times(made(exponential, self.gamma))


class LinearLR(ClosedFormLR):
    """Change lr in a line from `start_factor` to `end_factor` of it: `schedules.linear`.

    Differs from torch: a factor may be any number of at least 0; `total_iters=0` is refused, where
    torch would stay at `start_factor` for ever.

    Raises: HyperparameterError as `schedules.linear`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        schedule = linear(start_factor, total=total_iters, end=end_factor)
        self.start_factor, self.end_factor = schedule.start, schedule.end
        self.total_iters = schedule.total
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Return the lr of each group at `last_epoch`."""
        line = made(linear, self.start_factor, total=self.total_iters, end=self.end_factor)
        return self.times(line)


class ConstantLR(ClosedFormLR):
    """Multiply lr by `factor` until the epoch `total_iters`, then by 1: `schedules.constant`.

    Differs from torch: a factor may be any number of at least 0; `total_iters=0` is refused, where
    torch would stay at `factor` for ever.

    Raises: HyperparameterError as `schedules.constant` and `schedules.join`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        factor: float = 1.0 / 3,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        schedule = join([constant(factor), constant()], [total_iters])
        self.factor, self.total_iters = constant(factor).value, schedule.milestones[0]
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Return the lr of each group at `last_epoch`."""
        return self.times(lambda epoch: self.factor if epoch < self.total_iters else 1.0)


class PolynomialLR(ClosedFormLR):
    """Let lr fall to 0 along a power of a line: `schedules.polynomial`.

    Raises: HyperparameterError as `schedules.polynomial`.
    """

    def __init__(
        self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1
    ) -> None:
        schedule = polynomial(total=total_iters, power=power)
        self.total_iters, self.power = schedule.total, schedule.power
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Return the lr of each group at `last_epoch`."""
        return self.times(made(polynomial, total=self.total_iters, power=self.power))


class ReduceLROnPlateau(torch.optim.lr_scheduler.ReduceLROnPlateau):
    """Multiply lr by `factor` when `metrics` has not improved for more than `patience` epochs.

    This is torch's class, as it patches nothing, needs no order and has a memory of its own (the
    best metric, the bad epochs since). It changes the lr that it finds, which lives in the
    optimizer's state. Added here: numbers out of bounds and a state that misfits are refused.

    Raises: HyperparameterError for a number out of its bounds; ValueError from torch for an
        unknown mode.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: list[float] | float = 0,
        eps: float = 1e-8,
    ) -> None:
        numbers = {
            "factor": factor,
            "patience": patience,
            "threshold": threshold,
            "cooldown": cooldown,
            "eps": eps,
        }
        for name, value in numbers.items():
            numbers[name] = at_least_0(f"ReduceLROnPlateau: {name}", value)
        for low in min_lr if isinstance(min_lr, (list, tuple)) else [min_lr]:
            at_least_0("ReduceLROnPlateau: min_lr", low)
        super().__init__(optimizer, mode, threshold_mode=threshold_mode, min_lr=min_lr, **numbers)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state of this class or of torch's.

        Raises: StateError for the state of another class.
        """
        check_state(self, state_dict, ("best", "num_bad_epochs", "cooldown_counter", "patience"))
        super().load_state_dict(state_dict)
