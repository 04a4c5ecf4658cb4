"""In backward: each parameter is updated as soon as its gradient is complete, which is then freed.

Gradients never all exist at once: the memory of a training step is that of the largest, not of all.
"""

import itertools
from collections.abc import Iterator, Mapping
from operator import is_
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from steepest.errors import HyperparameterError
from steepest.optim.around import Norms, norms
from steepest.optim.update import Update

if TYPE_CHECKING:
    from steepest.optim.optimizer import Optimizer


class InBackward:
    """The hooks of one optimizer on its parameters; `remove()` takes them away."""

    def __init__(self, optimizer: "Optimizer", model: nn.Module | None) -> None:
        """Set the hooks.

        Raises:
            HyperparameterError: something needs all gradients at once, or the optimizer lacks a
                trainable parameter of the model.
        """
        self.optimizer = optimizer
        self.name = type(optimizer).__name__
        if not isinstance(model, nn.Module | None):
            raise HyperparameterError(
                f"{self.name}: step_in_backward takes the model or nothing, not a "
                f"{type(model).__name__}; its parameters are those of the optimizer"
            )
        self._refuse_what_needs_all()
        self._find_groups()
        for name, p in model.named_parameters() if model is not None else ():
            if p.requires_grad and p not in self.groups:
                raise HyperparameterError(
                    f"{self.name}: the parameter {name!r} of the model is not in the optimizer, so "
                    "its gradient would stay; build the optimizer over all of the model"
                )
        self.updates: dict[Tensor, Update] = {}
        self.last: dict[Tensor, Update] = {}
        """Each parameter's last update, which knows its norms, also when it does not last."""
        self.handles = [
            p.register_post_accumulate_grad_hook(self._step)
            for p in self.groups
            if p.requires_grad and p.is_leaf
        ]

    def remove(self) -> None:
        """Take the hooks away: gradients stay again, for `step()`."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self.updates.clear()
        self.last.clear()
        self.optimizer.forget_in_backward()

    def norms(self) -> Norms | None:
        """Return the norms of what each parameter's last update has summed."""
        if not self.last:
            return None
        parts: Iterator[tuple[Any, Mapping[str, float]]] = itertools.chain.from_iterable(
            update.sums() for update in self.last.values()
        )
        return norms(parts, self.optimizer.param_groups, 1.0)

    def _step(self, p: Tensor) -> None:
        optimizer = self.optimizer
        optimizer.check_learning()
        now = optimizer.param_groups
        if len(now) != len(self.seen) or not all(map(is_, now, self.seen)):
            self._find_groups()  # load_state_dict makes new ones
        if p not in self.groups:
            return
        groups = [self.groups[p]]
        self._refuse_what_needs_all()
        optimizer.scheduled.evaluate(optimizer.param_groups)
        update, around = self.updates.get(p), optimizer.around
        with torch.no_grad():
            if update is None or not update.step(groups, 1.0, around):
                formula = optimizer.rule(groups[0]).formula
                update = Update([formula], groups, optimizer.state, around, only=p)
                done = update.step(groups, 1.0, around)
                assert done, "an update just made does not fit"
        self.last[p] = update
        self.updates.pop(p, None)
        if update.lasting:
            self.updates[p] = update
        p.grad = None

    def _find_groups(self) -> None:
        """Learn which group each parameter is in."""
        self.seen = list(self.optimizer.param_groups)
        self.groups = {p: group for group in self.seen for p in group["params"]}

    def _refuse_what_needs_all(self) -> None:
        """Refuse what rests on the gradients of all parameters: they never exist together."""
        around = self.optimizer.around
        wanted = {
            "clip_norm": around.clip_norm is not None,
            "skip_nonfinite": around.skip_nonfinite,
        }
        for word, there in wanted.items():
            if there:
                raise HyperparameterError(
                    f"{self.name}: {word} needs the gradients of all parameters before the first "
                    "is updated, and in step_in_backward they never exist together; leave it out, "
                    "or bound each element by clip_value"
                )
        for group in self.optimizer.param_groups:
            if "total" in self.optimizer.rule(group).formula.words.values():
                raise HyperparameterError(
                    f"{self.name}: its formula has a total over all parameters, which are never "
                    "updated together in step_in_backward; call step() after backward"
                )
