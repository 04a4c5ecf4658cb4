"""Rules about what an optimizer remembers of its parameters: in their order, shape and form."""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from steepest.check.gradients import Report
from steepest.check.looks import is_due
from steepest.check.models import held
from steepest.check.taps import Rules

LIKE_PARAMETER = (
    "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg",
    "grad_avg", "acc_delta", "sum", "prev", "step_size", "ax",
)  # fmt: skip
"""States of torch's optimizers that have their parameter's shape."""

Alike = dict[int, tuple[weakref.ref[Tensor], dict[str, tuple[bool, bool]]]]
"""By a parameter's `id`: whether each of its states has its dtype, and is on its device."""


class Book:
    """What is known of an optimizer.

    Attributes:
        step: the updates done.
        first: its first parameter, with dtype and device.
        alike: which states were like their parameter.
        names: of the parameters before a state_dict was loaded.
    """

    def __init__(self) -> None:
        self.step = 0
        self.first: tuple[weakref.ref[Tensor], torch.dtype, torch.device] | None = None
        self.alike: Alike = {}
        self.names: list[str] = []

    def is_due(self) -> bool:
        """Tell whether the next update is to be looked at."""
        if self.first is None or is_due(self.step):
            return True
        ref, dtype, device = self.first
        p = ref()
        return p is not None and (p.dtype != dtype or p.device != device)

    def look(self, optimizer: torch.optim.Optimizer) -> None:
        """Note how states and parameters are."""
        self.alike = _alike(optimizer)
        first = next(held(optimizer), None)
        self.first = None if first is None else (weakref.ref(first), first.dtype, first.device)


class States(Rules):
    """SC206 and SC207."""

    def __init__(self, report: Report, name: Callable[[Tensor], str]) -> None:
        self.report = report
        self.name = name
        self.books: weakref.WeakKeyDictionary[Any, Book] = weakref.WeakKeyDictionary()

    # ---- events ------------------------------------------------------------------------------

    def loading(self, optimizer: torch.optim.Optimizer) -> None:
        """Note the names of its parameters."""
        self._book(optimizer).names = list(_names(optimizer))

    def loaded(self, optimizer: torch.optim.Optimizer) -> None:
        """Compare the state with the parameters."""
        book = self._book(optimizer)
        before, now = book.names, list(_names(optimizer))
        adapted = optimizer._optimizer_load_state_dict_pre_hooks
        if before != now and sorted(before) == sorted(now) and not adapted:
            which = next(i for i, name in enumerate(now) if name != before[i])
            self.report(
                "SC206",
                f"the state loaded into {_kind(optimizer)} is that of parameters in another order: "
                f"{before[which]} has the one of {now[which]}",
                step=book.step,
            )
        elif type(optimizer).__module__.startswith("torch.optim"):
            self._compare_shapes(optimizer, book)
        book.look(optimizer)

    def step_begins(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        """Compare with how the states were."""
        book = self._book(optimizer)
        if book.is_due():
            self._compare_forms(optimizer, book)

    def step_ends(self, optimizer: torch.optim.Optimizer) -> None:
        """Note how the states are."""
        book = self._book(optimizer)
        if book.is_due():
            book.look(optimizer)
        book.step += 1

    # ---- rules -------------------------------------------------------------------------------

    def _book(self, optimizer: torch.optim.Optimizer) -> Book:
        found = self.books.get(optimizer)
        if found is None:
            found = self.books[optimizer] = Book()
        return found

    def _compare_shapes(self, optimizer: torch.optim.Optimizer, book: Book) -> None:
        """SC206: the state is of parameters with other shapes."""
        for p, state in list(optimizer.state.items()):
            for key in LIKE_PARAMETER:
                value = state.get(key) if isinstance(p, Tensor) else None
                if isinstance(value, Tensor) and value.shape != p.shape:
                    self.report(
                        "SC206",
                        f'the loaded "{key}" of {self.name(p)} has the shape '
                        f"{tuple(value.shape)}, the parameter {tuple(p.shape)}",
                        step=book.step,
                    )
                    return

    def _compare_forms(self, optimizer: torch.optim.Optimizer, book: Book) -> None:
        """SC207: a state that was like its parameter is so no more."""
        for key, (ref, now) in _alike(optimizer).items():
            p = ref()
            seen, before = book.alike.get(key, (None, {}))
            if p is None or seen is None or seen() is not p:
                continue
            for name, alike in now.items():
                pairs = zip(before.get(name, alike), alike, strict=True)
                if any(was and not still for was, still in pairs):
                    self.report(
                        "SC207",
                        f'{self.name(p)} is {_form(p)}, but its "{name}" in {_kind(optimizer)} '
                        f"is {_form(optimizer.state[p][name])}",
                        step=book.step,
                    )
                    return


def _alike(optimizer: torch.optim.Optimizer) -> Alike:
    found: Alike = {}
    states = vars(optimizer).get("state")  # a property of others may do more than tell
    for p, state in list(states.items()) if isinstance(states, dict) else []:
        if isinstance(p, Tensor) and isinstance(state, dict):
            found[id(p)] = (
                weakref.ref(p),
                {
                    key: (value.dtype == p.dtype, value.device == p.device)
                    for key, value in state.items()
                    if isinstance(value, Tensor) and _is_like(value, p)
                },
            )
    return found


def _is_like(value: Tensor, p: Tensor) -> bool:
    return value.dim() > 0 and value.shape == p.shape and value.is_floating_point()


def _names(optimizer: torch.optim.Optimizer) -> Iterator[str]:
    return (name for group in optimizer.param_groups for name in group.get("param_names", ()))


def _form(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} on {value.device}"


def _kind(optimizer: torch.optim.Optimizer) -> str:
    return type(optimizer).__name__
