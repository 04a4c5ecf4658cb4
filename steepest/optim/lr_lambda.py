"""LambdaLR and MultiplicativeLR: an lr from a user's own functions of the epoch."""

from abc import ABC
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from steepest.errors import HyperparameterError
from steepest.optim.closed_form import ClosedFormLR, check_state, groups_of
from steepest.schedules import Schedule


class FunctionsLR(ClosedFormLR, ABC):
    """Keep a function of the epoch for each group.

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
                f"{type(self).__name__}: lr_lambda must be a function of the epoch, or a list of "
                f"one for each of the {groups} param groups, got {lr_lambda!r}: give "
                "cosine(total=100)"
            )
        super().__init__(optimizer, last_epoch)

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


class LambdaLR(FunctionsLR):
    """Multiply the initial lr by `lr_lambda(epoch)`: any schedule, or one for each group.

    Raises: HyperparameterError as `FunctionsLR`.
    """

    def get_lr(self) -> list[float | Tensor]:
        """Return each group's initial lr times its function of `last_epoch`."""
        pairs = zip(self.base_lrs, self.lr_lambdas, strict=True)
        return [lr * schedule(self.last_epoch) for lr, schedule in pairs]


class MultiplicativeLR(FunctionsLR):
    """Multiply lr by `lr_lambda(epoch)` at every epoch: by the product of all up to it.

    Differs from torch: the product is that of the functions at epochs 1, 2, ..., whatever else has
    changed lr; a scheduler that is loaded or moved to an epoch calls them for each epoch before.

    Raises: HyperparameterError as `FunctionsLR`.
    """

    def get_lr(self) -> list[float | Tensor]:
        """Return each group's initial lr times its function's values up to `last_epoch`."""
        reached, products = vars(self).get("_reached", (0, [1.0] * len(self.lr_lambdas)))
        if self.last_epoch < reached:
            reached, products = 0, [1.0] * len(self.lr_lambdas)
        for epoch in range(reached + 1, self.last_epoch + 1):
            pairs = zip(products, self.lr_lambdas, strict=True)
            products = [product * schedule(epoch) for product, schedule in pairs]
        self._reached = self.last_epoch, products
        return [lr * product for lr, product in zip(self.base_lrs, products, strict=True)]
