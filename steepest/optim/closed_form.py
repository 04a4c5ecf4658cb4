"""A torch LRScheduler that computes lr from the epoch alone.

torch's own schedulers multiply the lr that they find in the group, so that lr depends on all that
happened before: a restart, a second scheduler, the order of construction, rounding. Here
`group["lr"]` is a function of `initial_lr` and `last_epoch`, whenever it is set.
"""

import copy
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from steepest.errors import HyperparameterError, StateError
from steepest.schedules import Schedule
from steepest.schedules.schedule import checked


class ClosedFormLR(LRScheduler, ABC):
    """Set every group's lr to a function of `last_epoch`.

    Raises:
        TypeError: `optimizer` is none.
        HyperparameterError: `last_epoch` is given and a group has no `initial_lr`.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int) -> None:
        # LRScheduler.__init__ is not called: it replaces optimizer.step to watch the call order.
        self.optimizer = optimizer
        self.base_lrs = [
            _initial_lr(i, group, last_epoch) for i, group in enumerate(groups_of(optimizer))
        ]
        self.last_epoch = last_epoch
        self._initial_step()
        for group, lr in zip(optimizer.param_groups, self.base_lrs, strict=True):
            group.setdefault("initial_lr", _copied(lr))

    @abstractmethod
    def get_lr(self) -> list[float | Tensor]:
        """Return the lr of each group at `last_epoch`."""

    def step(self, epoch: int | None = None) -> None:
        """Go to the next epoch, or to the one given, and set its lr."""
        self._warn_of_lost_changes()
        self.advance(epoch)

    def advance(self, epoch: int | None = None) -> None:
        """Do what `step` does, whatever the lr has become since the last one."""
        self._step_count += 1
        self._update_lr(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return what torch's namesake saves: the arguments, `base_lrs` and `last_epoch`."""
        return {k: copy.copy(v) for k, v in vars(self).items() if k != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state of this class, or of torch's namesake, and set the lr of its epoch.

        Raises:
            StateError: the state is another class's, or of another number of groups; nothing has
                changed then.
        """
        check_state(self, state_dict, vars(self))
        loaded = copy.copy(self)
        known = vars(self).keys() & state_dict.keys()
        vars(loaded).update({key: copy.copy(state_dict[key]) for key in known})
        # At -1 a torch SequentialLR has not yet come to this scheduler: the lr is another's.
        lrs = loaded.get_lr() if loaded.last_epoch >= 0 else None
        vars(self).update(vars(loaded))
        if lrs is not None:
            self.write(lrs)

    def times(self, schedule: Callable[[int], float]) -> list[float | Tensor]:
        """Return `schedule(last_epoch)` times the initial lr of each group."""
        multiplier = schedule(self.last_epoch)
        return [lr * multiplier for lr in self.base_lrs]

    # torch's SequentialLR calls the next two, so they have torch's names.

    def _initial_step(self) -> None:
        self._step_count = 1
        self._update_lr()

    def _update_lr(self, epoch: int | None = None) -> None:
        _check_number(self, "base_lrs", len(self.base_lrs), HyperparameterError)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self.write(self.get_lr())

    def write(self, lrs: Sequence[float | Tensor]) -> None:
        """Set the lr of each group."""
        for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
            if isinstance(group["lr"], Tensor):  # in place: a captured step knows its address
                group["lr"].fill_(lr.reshape(()) if isinstance(lr, Tensor) else lr)
            else:
                group["lr"] = float(lr)
        self._last_lr = [_copied(group["lr"]) for group in self.optimizer.param_groups]

    def _warn_of_lost_changes(self) -> None:
        for i, (group, lr) in enumerate(
            zip(self.optimizer.param_groups, self._last_lr, strict=False)
        ):
            # A tensor is not compared: on a GPU that would wait for the device.
            if isinstance(group["lr"], Tensor) or math.isclose(group["lr"], lr, rel_tol=1e-6):
                continue
            warnings.warn(
                f"{type(self).__name__} sets the lr of param group {i} to that of its epoch, and a "
                "change made to it since the last step is lost: to change lr, edit "
                "scheduler.base_lrs; to combine schedules, multiply them in one LambdaLR or use "
                "steepest.schedules.join",
                stacklevel=3,
            )


@lru_cache(maxsize=256)
def made(schedule: Callable[..., Schedule], *arguments: object, **named: object) -> Schedule:
    """Return a schedule of these arguments, checked once."""
    # The attributes may be changed between steps; checking them anew took most of a step's time.
    return schedule(*arguments, **named)


def at_least_0(what: str, value: object) -> Any:
    """Return a number, or refuse one that is below 0."""
    return checked(what, value, "number of at least 0", "one, such as torch's default")


def groups_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the param groups, or refuse what is no optimizer."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"a scheduler needs a torch.optim.Optimizer, got {optimizer!r}: give one")
    return optimizer.param_groups


def check_state(scheduler: LRScheduler, state: Mapping[str, Any], needed: Iterable[str]) -> None:
    """Refuse a state with public keys missing or unknown (torch before 2.7 also had `verbose`)."""
    known = _public(vars(scheduler)) | {"verbose"}
    if not _public(needed) <= state.keys() or not _public(state) <= known:
        raise StateError(
            f"{type(scheduler).__name__}.load_state_dict: the state must have the keys "
            f"{sorted(_public(needed))}, got {sorted(_public(state))}: load the state of a "
            "scheduler of the same class"
        )
    for key in ("base_lrs", "lr_lambdas"):
        if key in state:
            _check_number(scheduler, key, len(state[key]), StateError)


def _check_number(scheduler: LRScheduler, key: str, number: int, error: type[Exception]) -> None:
    groups = len(scheduler.optimizer.param_groups)
    if groups != number:
        raise error(
            f"{type(scheduler).__name__}: {key} must have one entry for each param group, got "
            f"{number} for {groups} groups: build a scheduler after the last add_param_group, or "
            f"append one for each new group to {key}"
        )


def _public(keys: Iterable[str]) -> set[str]:
    return {key for key in keys if key != "optimizer" and not key.startswith("_")}


def _initial_lr(i: int, group: dict[str, Any], last_epoch: int) -> float | Tensor:
    if last_epoch != -1 and "initial_lr" not in group:
        raise HyperparameterError(
            f"last_epoch: to resume, every param group must have an initial_lr, got none in group "
            f"{i} at last_epoch={last_epoch}: load the optimizer's state first, or leave "
            "last_epoch at -1"
        )
    return _copied(group.get("initial_lr", group["lr"]))


def _copied(lr: float | Tensor) -> float | Tensor:
    return lr.clone() if isinstance(lr, Tensor) else lr
