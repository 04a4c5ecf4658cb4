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
schedules into one `LambdaLR`, or one after the other with `schedules.join`. As in torch, a new
scheduler starts from `group["initial_lr"]` where an earlier one has left it.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Literal

import torch.optim.lr_scheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from steepest.errors import HyperparameterError
from steepest.optim.closed_form import ClosedFormLR, check_state, groups_of
from steepest.schedules import (
    Schedule,
    cosine,
    exponential,
    linear,
    multi_step,
    polynomial,
    step_decay,
)
from steepest.schedules.schedule import checked

__all__ = ["CosineAnnealingLR", "ExponentialLR", "LRScheduler", "LambdaLR", "LinearLR",
           "MultiStepLR", "PolynomialLR", "ReduceLROnPlateau", "StepLR"]  # fmt: skip


class LambdaLR(ClosedFormLR):
    """Multiply the initial lr by `lr_lambda(epoch)`: any schedule, or one for each group.

    `state_dict` keeps what torch's keeps of a callable object, its attributes; a function, or a
    schedule of `steepest.schedules`, is not saved: give the same one again.

    Raises: HyperparameterError for a list that does not fit the groups, or something uncallable.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | list[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        groups = len(groups_of(optimizer))
        if isinstance(lr_lambda, (list, tuple)):
            self.lr_lambdas = list(lr_lambda)
        else:
            self.lr_lambdas = [lr_lambda] * groups
        if len(self.lr_lambdas) != groups or not all(map(callable, self.lr_lambdas)):
            raise HyperparameterError(
                "LambdaLR: lr_lambda must be a function of the epoch, or a list of one for each of "
                f"the {groups} param groups, got {lr_lambda!r}: give cosine(total=100)"
            )
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Return each group's initial lr times its function of `last_epoch`."""
        pairs = zip(self.base_lrs, self.lr_lambdas, strict=True)
        return [lr * schedule(self.last_epoch) for lr, schedule in pairs]

    def state_dict(self) -> dict[str, Any]:
        """Return torch's keys; `lr_lambdas` has the attributes of objects, None for functions."""
        memories = [None if f is None else f.copy() for f in map(_memory, self.lr_lambdas)]
        return super().state_dict() | {"lr_lambdas": memories}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state, give the callable objects their attributes, and set the lr.

        Raises: StateError as `ClosedFormLR.load_state_dict`.
        """
        check_state(self, state_dict, vars(self))
        for memory, saved in zip(
            map(_memory, self.lr_lambdas), state_dict["lr_lambdas"], strict=True
        ):
            if memory is not None:
                memory.update(saved or {})
        super().load_state_dict({**state_dict, "lr_lambdas": self.lr_lambdas})


def _memory(f: object) -> dict[str, Any] | None:
    functions = (FunctionType, BuiltinFunctionType, MethodType, Schedule)
    return None if isinstance(f, functions) else getattr(f, "__dict__", None)


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
        return self.times(_made(step_decay, self.step_size, self.gamma))


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
        return self.times(_made(multi_step, tuple(self.milestones.elements()), self.gamma))


class ExponentialLR(ClosedFormLR):
    """Multiply lr by `gamma` every epoch: `schedules.exponential`.

    Raises: HyperparameterError as `schedules.exponential`.
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = exponential(gamma).gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Return the lr of each group at `last_epoch`."""
        return self.times(_made(exponential, self.gamma))


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
        line = _made(linear, self.start_factor, total=self.total_iters, end=self.end_factor)
        return self.times(line)


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
        return self.times(_made(polynomial, total=self.total_iters, power=self.power))


class CosineAnnealingLR(ClosedFormLR):
    """Swing lr between its initial value and `eta_min` along a cosine: `schedules.cosine`.

    `eta_min + (initial_lr - eta_min) * (1 + cos(pi * epoch / T_max)) / 2`: after `T_max` epochs lr
    rises again, after `2 * T_max` it falls, as torch's does; `schedules.cosine` stays low.
    `eta_min` is a learning rate, the same for all groups, and not a factor.

    Source: Loshchilov & Hutter 2017 (SGDR), equation 5, https://arxiv.org/abs/1608.03983
    Raises: HyperparameterError for a `T_max` not above 0, an `eta_min` below 0.
    """

    def __init__(
        self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        self.T_max = cosine(total=T_max).total
        self.eta_min = _at_least_0("CosineAnnealingLR: eta_min", eta_min)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Return the lr of each group at `last_epoch`."""
        fall = _made(cosine, total=self.T_max)
        epoch = self.last_epoch % (2 * self.T_max)
        height = fall(min(epoch, 2 * self.T_max - epoch))  # the way up mirrors the way down
        return [lr * height + self.eta_min * (1 - height) for lr in self.base_lrs]


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
            numbers[name] = _at_least_0(f"ReduceLROnPlateau: {name}", value)
        for low in min_lr if isinstance(min_lr, (list, tuple)) else [min_lr]:
            _at_least_0("ReduceLROnPlateau: min_lr", low)
        super().__init__(optimizer, mode, threshold_mode=threshold_mode, min_lr=min_lr, **numbers)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state of this class or of torch's.

        Raises: StateError for the state of another class.
        """
        check_state(self, state_dict, ("best", "num_bad_epochs", "cooldown_counter", "patience"))
        super().load_state_dict(state_dict)


@lru_cache(maxsize=256)
def _made(schedule: Callable[..., Schedule], *arguments: object, **named: object) -> Schedule:
    # The attributes may be changed between steps; checking them anew took most of a step's time.
    return schedule(*arguments, **named)


def _at_least_0(what: str, value: object) -> Any:
    return checked(what, value, "number of at least 0", "one, such as torch's default")
