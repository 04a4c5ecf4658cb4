"""Rules about gradients and steps: in which order they come, and that each is used once.

A few parameters of each optimizer are marked: what gradient they had at the last update, by its
identity and its version, which torch counts up at every change in place.
"""

import itertools
import math
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from steepest.check.taps import Rules
from steepest.check.where import Place, here

MARKED = 3  # parameters of each optimizer
FIRST, SELDOM = 20, 64  # steps that are looked at closely: so many at first, then one of so many

Report = Callable[..., None]
"""`report(code, message, step=..., where=...)`, which notes a finding."""


class Mark:
    """A parameter and the gradient that it was last seen with.

    Attributes:
        state: "new" while no update has used it, "used", or "summed" when a backward has added to
            one that was used.
        added: where that was.
    """

    __slots__ = ("_gradient", "_holds", "_looks", "_untouched", "_version", "added", "p", "state")

    def __init__(self, p: Tensor) -> None:
        self.p = p
        self.added: Place | None = None
        self._looks = 0
        self._holds = True  # whether the last look found anything but zeros
        self.used()

    def used(self) -> None:
        """Note that an update has used the gradient."""
        self.state = "used"
        self._look()

    @property
    def is_stale(self) -> bool:
        """Whether the gradient is the one that an update has used, and nobody has changed it."""
        return self.state == "used" and self._is_as_it_was()

    def backward_begins(self) -> None:
        """Note whether the gradient is as it was when last seen.

        One that is zero was cleared in a way that no version tells, by `.data` or in a kernel.
        """
        self._untouched = self._is_as_it_was()
        if self._untouched and self.state == "used":
            if self._looks < FIRST or self._looks % SELDOM == 0:
                self._holds = _holds_any(self.p.grad)
            self._looks += 1
            self._untouched = self._holds

    def backward_ends(self, where: Callable[[], Place | None]) -> None:
        """Note what has become of the gradient."""
        if self.p.grad is None or self._is_as_it_was():
            return
        if not (self._untouched and self.state != "new" and self._gradient() is self.p.grad):
            self.state = "new"
        elif self.state == "used":
            self.state, self.added = "summed", where()
        self._look()

    @property
    def is_summed(self) -> bool:
        """Whether the gradient holds an old one, which no one has cleared."""
        gradient = self.p.grad
        return self.state == "summed" and gradient is not None and self._gradient() is gradient

    def _look(self) -> None:
        gradient = self.p.grad
        self._gradient = _nothing if gradient is None else weakref.ref(gradient)
        self._version = -1 if gradient is None else _local(gradient)._version
        self._untouched = True

    def _is_as_it_was(self) -> bool:
        gradient = self.p.grad
        return (
            gradient is not None
            and self._gradient() is gradient
            and self._version == _local(gradient)._version
        )


def _nothing() -> None:
    return None


class Sample:
    """A few numbers of a parameter before an update."""

    def __init__(self, p: Tensor) -> None:
        self.p = p
        self._version = p._version
        self._numbers = _some(p.detach()).clone()

    def is_unchanged(self) -> bool:
        """Tell whether nothing was written, though the gradient is not zero there."""
        p = self.p
        if p._version != self._version or p.grad is None:  # torch's fused kernels leave the version
            return False
        return bool(torch.equal(_some(p.detach()), self._numbers) and _some(p.grad).any())


def _some(tensor: Tensor) -> Tensor:
    """Return up to 64 numbers of a tensor, evenly spaced where it lies in one piece."""
    tensor = _local(tensor)
    if tensor.layout is not torch.strided or not tensor.is_contiguous():
        return tensor.new_zeros(0)
    flat = tensor.view(-1)
    return flat[:: max(1, flat.numel() // 64)][:64]


class Book:
    """What is known of an optimizer.

    Attributes:
        step: the updates done.
        marks: a few of its parameters.
        stepped: the time of its last update, in events.
        cleared: the time and place of the last `zero_grad` of gradients that no update had used.
        before: a few parameters before an update that is looked at closely.
        still: whether no update so far had an lr above 0.
        where: the line of its first update.
        thread: in which it was; another one's backward may write gradients while they are read.
    """

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.step = 0
        self.marks: list[Mark] = []
        self.stepped = -1
        self.cleared: tuple[int, Place | None] = (-1, None)
        self.before: list[Sample] = []
        self.still = True
        self.where: Place | None = None


class Gradients(Rules):
    """SC101 to SC108."""

    def __init__(self, report: Report, name: Callable[[Tensor], str]) -> None:
        self.report = report
        self.name = name
        self.books: weakref.WeakKeyDictionary[Any, Book] = weakref.WeakKeyDictionary()
        self._time = itertools.count()
        self._backward = -1  # the time of the last one
        self._cleared: tuple[int, Place | None, set[int]] = (-1, None, set())  # the last time
        self._scaled: weakref.WeakKeyDictionary[Any, set[int]] = weakref.WeakKeyDictionary()

    def book(self, optimizer: torch.optim.Optimizer) -> Book:
        """Return what is known of an optimizer."""
        found = self.books.get(optimizer)
        if found is None:
            found = self.books[optimizer] = Book()
        return found

    def _of_this_thread(self) -> list[Book]:
        thread = threading.get_ident()
        return [book for book in list(self.books.values()) if book.thread == thread]

    # ---- events ------------------------------------------------------------------------------

    def zeroing(self, parameters: Iterable[Tensor]) -> None:
        """Note what is lost, if an update was to use it."""
        if self._backward < 0:
            return
        cleared = {id(p) for p in parameters if p.grad is not None}
        if cleared:
            self._cleared = (next(self._time), here(), cleared)
        for book in self._of_this_thread():
            fresh = any(id(m.p) in cleared and m.p.grad is not None and not m.is_stale
                        for m in book.marks)  # fmt: skip
            if fresh and book.stepped < self._backward:
                book.cleared = (next(self._time), here())

    def backward_begins(self, roots: Any) -> None:
        """Look at the marked gradients."""
        for book in self._of_this_thread():
            for mark in book.marks:
                mark.backward_begins()

    def backward_ends(self) -> None:
        """Look again."""
        self._backward = next(self._time)
        for book in self._of_this_thread():
            for mark in book.marks:
                mark.backward_ends(here)

    def clipping(self, parameters: list[Tensor], limit: float) -> None:
        """Look whether the gradients are still to be used, and in their own units."""
        if math.isinf(limit):  # which only measures
            return
        clipped = {id(p) for p in parameters}
        for optimizer, book in list(self.books.items()):
            marks = [mark for mark in book.marks if id(mark.p) in clipped]
            if marks and all(mark.is_stale for mark in marks):
                self.report(
                    "SC106",
                    f"gradients are clipped to {limit:g} after the update that used them, that of "
                    f"{_kind(optimizer)}",
                    step=book.step,
                )
        for scaler, unscaled in self._scaled.items():
            if unscaled is not None and scaler.is_enabled() and scaler.get_scale() != 1:
                owners = self._owners(clipped)
                if owners and not owners & unscaled:
                    self.report(
                        "SC107",
                        f"gradients are clipped to {limit:g} while they are {scaler.get_scale():g} "
                        "times their value",
                        step=max((book.step for book in self.books.values()), default=0),
                    )

    def scaling(self, scaler: Any, what: str, optimizer: torch.optim.Optimizer | None) -> None:
        """Note whose gradients are in which units."""
        if what == "scale" and scaler not in self._scaled:
            self._scaled[scaler] = set()
        elif what == "unscale" and optimizer is not None:
            self._scaled.setdefault(scaler, set()).add(id(optimizer))
        elif what == "update":
            self._scaled.pop(scaler, None)

    def step_begins(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        """Look at what the update is to use."""
        book = self.book(optimizer)
        book.where = book.where or here()
        summed = [mark for mark in book.marks if mark.is_summed]
        if any(_holds_any(mark.p.grad) for mark in summed):
            mark = summed[0]
            self.report(
                "SC101",
                f"the gradient of {self.name(mark.p)} still holds the one of the update before: "
                "backward has added to it",
                step=book.step,
                where=mark.added,
            )
        if not closure:
            self._look_for_gradients(optimizer, book)
        if book.step < FIRST or book.step % SELDOM == 0:
            moving = any(_lr(group) != 0 for group in optimizer.param_groups)
            some = itertools.islice(_with_gradient(optimizer), MARKED) if moving else ()
            book.before = [Sample(p) for p in some]

    def step_ends(self, optimizer: torch.optim.Optimizer) -> None:
        """Mark the gradients as used."""
        book = self.book(optimizer)
        book.step += 1
        book.stepped = next(self._time)
        if book.before and all(sample.is_unchanged() for sample in book.before):
            names = ", ".join(self.name(sample.p) for sample in book.before)
            self.report(
                "SC105",
                f"{_kind(optimizer)}.step() has changed nothing of {names}, whose gradients are "
                "not zero",
                step=book.step,
            )
        book.before = []
        if any(_lr(group) != 0 for group in optimizer.param_groups):
            book.still = False
        if len(book.marks) < MARKED or any(mark.p.grad is None for mark in book.marks):
            book.marks = [Mark(p) for p in itertools.islice(_with_gradient(optimizer), MARKED)]
        else:
            for mark in book.marks:
                mark.used()

    def finished(self) -> None:
        """Tell of optimizers that never moved."""
        for optimizer, book in list(self.books.items()):
            if book.still and book.step > 1:
                self.report(
                    "SC105",
                    f"the lr of {_kind(optimizer)} was 0 in each of {book.step} updates",
                    step=book.step,
                    where=book.where,
                )

    # ---- rules -------------------------------------------------------------------------------

    def _look_for_gradients(self, optimizer: torch.optim.Optimizer, book: Book) -> None:
        """SC102, SC103, SC104, SC108: an update for which no gradient has come."""
        if not book.marks:  # no update has had a gradient yet
            time, where, parameters = self._cleared
            owned = (id(p) for group in optimizer.param_groups for p in group["params"])
            book.cleared = (time, where) if parameters.intersection(owned) else book.cleared
        cleared, where = book.cleared
        if cleared > max(self._backward, book.stepped) and not _any_number(optimizer):
            what = f"zero_grad has cleared the gradients that {_kind(optimizer)}.step() was to use"
            self.report("SC102", what, step=book.step, where=where)
            return
        if any(not mark.is_stale and mark.p.grad is not None for mark in book.marks):
            return
        first = next(_with_gradient(optimizer), None)
        came = self._backward > book.stepped
        if first is None:
            if not came:
                what = f"{_kind(optimizer)}.step() comes without a backward: every gradient is None"
                self.report("SC103", what, step=book.step)
            else:
                what = f"backward has reached no parameter of {_kind(optimizer)}"
                self.report("SC108", what, step=book.step)
        elif book.marks and not came and all(mark.is_stale for mark in book.marks):
            self.report(
                "SC104",
                f"{_kind(optimizer)}.step() comes twice for one backward: the gradient of "
                f"{self.name(first)} is the one that the update before has used",
                step=book.step,
            )

    def _owners(self, parameters: set[int]) -> set[int]:
        return {
            id(optimizer)
            for optimizer in list(self.books)
            if any(id(p) in parameters for group in optimizer.param_groups for p in group["params"])
        }


def _with_gradient(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    return (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None)


def _any_number(optimizer: torch.optim.Optimizer) -> bool:
    """Tell whether any gradient holds anything but zeros."""
    return any(_holds_any(p.grad) for p in _with_gradient(optimizer))


def _holds_any(gradient: Tensor | None) -> bool:
    """Tell whether a gradient holds anything but zeros."""
    return gradient is not None and bool(_local(gradient).any())


def _local(tensor: Tensor) -> Tensor:
    """Return this process's part of a DTensor, which would ask the others at each operation."""
    return tensor if type(tensor) is Tensor else getattr(tensor, "_local_tensor", tensor)


def _lr(group: dict[str, Any]) -> float:
    lr = group.get("lr", 1.0)
    return float(lr) if isinstance(lr, (int, float, Tensor)) else 1.0


def _kind(optimizer: torch.optim.Optimizer) -> str:
    return type(optimizer).__name__
