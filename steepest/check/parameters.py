"""Rules about parameters: the optimizer holds those of the model that learns, and they can learn.

What one update alone could mean is told when the next one has confirmed it.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatch
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from steepest.check.gradients import Mark, Report
from steepest.check.looks import is_due, is_first_of_pair
from steepest.check.models import Models, held, plain_name
from steepest.check.taps import Rules

LISTED = 5  # names in a message
SAMPLE = 64  # elements

Part = tuple[nn.Module, str, Tensor]
"""A model, and the name of one of its parameters."""


class Sight(NamedTuple):
    """A parameter that no optimizer holds, as an update found it."""

    p: weakref.ref[Tensor]
    gradient: weakref.ref[Tensor]
    gradient_version: int
    version: int
    total: Any

    def has_not_learned(self, p: Tensor) -> bool:
        """Whether a new gradient has come since, and nothing has changed the parameter."""
        gradient = p.grad
        if self.p() is not p or gradient is None:
            return False
        is_old = self.gradient() is gradient and self.gradient_version == gradient._version
        return not is_old and self.version == p._version and self.total == _total(p)


class Book:
    """What is known of an optimizer.

    Attributes:
        step: the updates done.
        looks: whether the update at hand is looked at.
        closure: whether it makes its gradients itself.
        sights: the parameters without an optimizer, by `id`.
        marks: its parameters with the gradients that the last look saw.
        frozen: its frozen parameters that should not move, with some of their values.
    """

    def __init__(self) -> None:
        self.step = 0
        self.looks = True
        self.closure = False
        self.sights: dict[int, Sight] = {}
        self.marks: dict[int, Mark] = {}
        self.frozen: list[tuple[Tensor, Tensor]] = []

    def has_new_gradient(self, p: Tensor) -> bool:
        """Whether a gradient has come since the last look."""
        mark = self.marks.get(id(p))
        return p.grad is not None and not (mark is not None and mark.p is p and mark.is_stale)

    def frozen_parameters(self, optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
        """Yield those with a gradient that has not come since the last look, or is zero."""
        for p in held(optimizer):
            if p.requires_grad or p.grad is None or not _is_plain(p) or not _is_plain(p.grad):
                continue
            mark = self.marks.get(id(p))
            if mark is not None and mark.p is p and (mark.is_stale or not bool(p.grad.any())):
                yield p


class Parameters(Rules):
    """SC201 to SC205."""

    def __init__(
        self,
        report: Report,
        name: Callable[[Tensor], str],
        models: Models,
        expect_frozen: str | Iterable[str] = (),
    ) -> None:
        self.report = report
        self.name = name
        self.models = models
        self.expected = [expect_frozen] if isinstance(expect_frozen, str) else list(expect_frozen)
        self.books: weakref.WeakKeyDictionary[Any, Book] = weakref.WeakKeyDictionary()

    # ---- events ------------------------------------------------------------------------------

    def step_begins(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        """Look at the parameters that the update is about."""
        book = self.books.get(optimizer)
        if book is None:
            book = self.books[optimizer] = Book()
            self.models.meet(optimizer)
        book.looks, book.closure = is_due(book.step), closure
        if book.looks:
            frozen = book.frozen_parameters(optimizer)
            book.frozen = [(p, p.detach().flatten()[:SAMPLE].clone()) for p in frozen]
            if not closure:
                self._look(optimizer, book)

    def step_ends(self, optimizer: torch.optim.Optimizer) -> None:
        """Look at what the update has done."""
        book = self.books.get(optimizer)
        if book is None:
            return
        if book.looks and book.closure:
            self._look(optimizer, book)
        book.step += 1
        if book.looks:
            for p, values in book.frozen:
                now = p.detach().flatten()[:SAMPLE]
                if not torch.allclose(values, now, rtol=0, atol=0, equal_nan=True):
                    what = f"{self.name(p)} is frozen, but {_kind(optimizer)}.step() has moved it"
                    self.report("SC205", what, step=book.step)
                    break
            book.frozen = []
            book.marks = {id(p): Mark(p) for p in held(optimizer) if p.grad is not None}

    # ---- rules -------------------------------------------------------------------------------

    def _look(self, optimizer: torch.optim.Optimizer, book: Book) -> None:
        """SC201 to SC204: who holds the parameters that learn."""
        mine = list(held(optimizer))
        is_first = is_first_of_pair(book.step)
        if mine and all(p.grad is None for p in mine):
            if is_first:
                self.models.find()  # those of a newer model may have the gradients
            elif not any(p.requires_grad for p in mine):
                what = f"each of the {len(mine)} parameters of {_kind(optimizer)} is frozen"
                self.report("SC203", what, step=book.step)
        before = {} if is_first else book.sights
        unowned = list(self._unowned())
        book.sights = {id(p): _sight(p) for _, _, p in unowned}
        lost = {
            id(p)
            for _, _, p in unowned
            if (sight := before.get(id(p))) is not None and sight.has_not_learned(p)
        }
        if lost:
            self.models.find()  # an optimizer that has not updated yet may hold them
            self._tell(optimizer, book, [part for part in self._unowned() if id(part[2]) in lost])

    def _unowned(self) -> Iterator[Part]:
        """Yield the parameters with a gradient that no optimizer holds."""
        owned = self.models.owned()
        for root in self.models.roots():
            for name, p in root.named_parameters():
                if id(p) not in owned and p.requires_grad and p.is_leaf and p.grad is not None:
                    plain = plain_name(name)
                    if not any(fnmatch(plain, k) or fnmatch(name, k) for k in self.expected):
                        yield root, plain, p

    def _tell(self, optimizer: torch.optim.Optimizer, book: Book, lost: list[Part]) -> None:
        """SC201, SC202, SC204: tell of each model that has parameters without an optimizer."""
        mine = {id(p): p for p in held(optimizer)}
        learns = any(book.has_new_gradient(p) for p in mine.values())
        strays = self._strays(book, mine)
        for root in {id(root): root for root, _, _ in lost}.values():
            names = [name for model, name, _ in lost if model is root]
            what = f"{_listed(names)} of {type(root).__name__} have gradients but no optimizer"
            theirs = list(root.parameters())
            if any(id(p) in mine for p in theirs):
                code = "SC204" if strays else "SC202"
                if strays:
                    shapes = _listed(str(tuple(p.shape)) for p in strays)
                    what += f"; {_kind(optimizer)} holds {shapes} of no model that learns"
            elif not learns:
                code = "SC201"
                is_copy = [p.shape for p in theirs] == [p.shape for p in mine.values()]
                which = "a copy or an older one, by their shapes" if is_copy else "another model"
                what += f"; {_kind(optimizer)} holds {len(mine)} parameters of {which}"
            else:
                continue
            self.report(code, what, step=book.step)

    def _strays(self, book: Book, mine: dict[int, Tensor]) -> list[Tensor]:
        """Return the parameters to which no gradient comes, and that no model which learns has."""
        parts = [list(root.parameters()) for root in self.models.roots()]
        learning = (part for part in parts if any(p.grad is not None for p in part))
        used = {id(p) for part in learning for p in part}
        return [p for k, p in mine.items() if k not in used and not book.has_new_gradient(p)]


def _sight(p: Tensor) -> Sight:
    gradient = p.grad
    assert gradient is not None
    return Sight(weakref.ref(p), weakref.ref(gradient), gradient._version, p._version, _total(p))


def _total(p: Tensor) -> Any:
    """Return the sum of the elements, which also tells of changes that torch does not count."""
    return p.detach().sum().item() if _is_plain(p) else None


def _is_plain(p: Tensor) -> bool:
    """Tell whether values can be looked at: those of a sharded tensor are on several machines."""
    data = p.detach()
    return type(data) is Tensor and data.layout is torch.strided and not data.is_meta


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - LISTED
    return ", ".join(listed[:LISTED]) + (f" and {more} more" if more > 0 else "")


def _kind(optimizer: torch.optim.Optimizer) -> str:
    return type(optimizer).__name__
