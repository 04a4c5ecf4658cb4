"""Rules about schedules: stepped in the right place, as often as they are made for."""

import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from steepest.check.taps import Rules
from steepest.check.where import Place, here

PERIODS = 3  # of a cosine in one epoch, and it was made for epochs
DEAD = 1e-7  # of the initial lr: float32 weights do not notice it
EARLY = 3  # epochs in which an lr may not die
MANY = 4  # updates between two steps of a schedule, and these are epochs

Report = Callable[..., None]


class Book:
    """What is known of a scheduler.

    Attributes:
        kind: the name of its class.
        horizon: the step after which nothing more happens; 0 where there is none.
        last: the last milestone; 0 where there is none.
        is_inner: whether another scheduler steps it.
        steps: those that the loop has made.
        where: the line of the last one.
        pattern: "S" for a step of the scheduler, "O" for updates of its optimizer, the first four.
        updates: of its optimizer, since the scheduler was made.
        least: updates between two steps, the fewest.
    """

    def __init__(self, scheduler: Any) -> None:
        self.kind = type(scheduler).__name__
        self.horizon = _horizon(scheduler)
        self.last = _milestones(scheduler)
        self.is_inner = False
        self.steps = 0
        self.where: Place | None = None
        self.pattern = ""
        self.updates = 0
        self.least: int | None = None
        self.at_step = 0  # updates at the last step
        self.at_epoch: tuple[int, int] = (0, 0)  # steps and updates when one last began
        self.epochs = 0
        self.dead: int | None = None  # updates when the lr was found to be next to nothing
        self.early = False  # all milestones lie within a third of the first epoch


class Schedules(Rules):
    """SC401 to SC404.

    Args:
        report: notes a finding.
        expect_steps: how many updates the training is to make; None where that is not known.
    """

    def __init__(self, report: Report, expect_steps: int | None = None) -> None:
        self.report = report
        self.expect_steps = expect_steps
        self.steps: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._most = 0
        self._every: list[Book] = []
        self._books: weakref.WeakKeyDictionary[Any, Book] = weakref.WeakKeyDictionary()
        self._of: weakref.WeakKeyDictionary[Any, list[Book]] = weakref.WeakKeyDictionary()
        self._inner: weakref.WeakSet[Any] = weakref.WeakSet()
        self._asked: weakref.WeakSet[Any] = weakref.WeakSet()  # by a GradScaler, which may skip
        self._last: tuple[Any, Any] = (_nothing, None)
        self._loaders: weakref.WeakKeyDictionary[Any, list[int]] = weakref.WeakKeyDictionary()
        self._starts: list[list[int]] = []  # of each loader: epochs, and whether they train
        self._loader: tuple[list[int], int] = ([0, 0], 0)  # the last one, and all updates then
        self._all = 0

    # ---- events ------------------------------------------------------------------------------

    def scheduling(self, scheduler: Any) -> None:
        """Count a step that the loop makes; not those of a scheduler within another."""
        if isinstance(scheduler, ReduceLROnPlateau) or getattr(scheduler, "_is_initial", False):
            return
        optimizer = getattr(scheduler, "optimizer", None)
        inner = getattr(scheduler, "_schedulers", ())
        for one in inner:
            self._inner.add(one)
            if one in self._books:
                self._books[one].is_inner = True
        if optimizer is None or scheduler in self._inner:
            return
        count = getattr(scheduler, "last_epoch", None), getattr(scheduler, "_step_count", None)
        if self._last[0]() is scheduler and self._last[1] == count and not inner:
            return  # `step` of a class calls that of the class above
        self._last = weakref.ref(scheduler), count
        book = self._books.get(scheduler)
        if book is None:
            book = self._books[scheduler] = Book(scheduler)
            self._every.append(book)
            book.updates = self.steps.get(optimizer, 0)
            self._of.setdefault(optimizer, []).append(book)
            called = getattr(optimizer, "_opt_called", False)  # torch's own note
            if book.updates or called or optimizer in self._asked:
                book.pattern = "O"
        self._step(book)

    def scaling(self, scaler: Any, what: str, optimizer: torch.optim.Optimizer | None) -> None:
        """A GradScaler may skip the update that it was asked for."""
        if what == "step" and optimizer is not None and optimizer not in self._asked:
            self._asked.add(optimizer)
            for book in self._of.get(optimizer, ()):
                self._update(book)

    def step_ends(self, optimizer: torch.optim.Optimizer) -> None:
        """Count an update."""
        count = self.steps[optimizer] = self.steps.get(optimizer, 0) + 1
        self._all += 1
        self._most = max(self._most, count)
        for book in self._of.get(optimizer, ()):
            book.updates = count
            if len(book.pattern) < 4:
                self._update(book)
            if book.dead is not None and count >= book.dead + MANY:
                self._dead(optimizer, book)

    def epoch(self, loader: Any) -> None:
        """Look what became of the schedules in the epoch before, if this is a training loader."""
        self._end_of_epoch()
        starts = self._loaders.get(loader)
        if starts is None:
            starts = self._loaders[loader] = [0, 0]
            self._starts.append(starts)
        starts[0] += 1
        self._loader = starts, self._all
        for scheduler, book in list(self._books.items()):
            steps, updates = book.at_epoch
            if book.updates == updates:  # a loader of an evaluation
                continue
            book.epochs += 1
            made = book.steps - steps
            book.at_epoch = book.steps, book.updates
            if made > 1 and abs(made - (book.updates - updates)) <= 1:
                self._epoch_of_steps(scheduler, book, made)

    def finished(self) -> None:
        """Look at what needs the whole training."""
        if sys.exception() is not None:  # the training was not to end here
            return
        if self.expect_steps is not None:
            made = self._most
            if made < self.expect_steps:
                what = f"{made} updates were made, and {self.expect_steps} were planned"
                self.report("SC404", what, step=made)
        self._end_of_epoch()
        for book in self._every:
            if not book.is_inner:
                self._too_few(book)
                self._milestones(book)

    # ---- rules -------------------------------------------------------------------------------

    def _step(self, book: Book) -> None:
        if book.steps:
            apart = book.updates - book.at_step
            book.least = apart if book.least is None else min(book.least, apart)
        book.steps += 1
        book.at_step = book.updates
        if len(book.pattern) < 4:
            where = here()
            same = book.where in (None, where)
            book.pattern = book.pattern + "S" if same else "O"  # else a resume winds it on
            book.where = where
        elif book.where is None:
            book.where = here()

    def _update(self, book: Book) -> None:
        """SC401: updates and steps take turns, and the first was a step."""
        if book.pattern[-1:] == "S" and len(book.pattern) < 4:
            book.pattern += "O"
            if book.pattern == "SOSO":
                self.report(
                    "SC401",
                    "the schedule is stepped before each update: its first lr is never used",
                    step=book.updates,
                    where=book.where,
                )

    def _epoch_of_steps(self, scheduler: Any, book: Book, made: int) -> None:
        """SC402: a schedule of epochs that steps with each update."""
        period = _cosine(scheduler)
        if period and made >= PERIODS * period:
            self.report(
                "SC402",
                f"a cosine of {period} steps was stepped {made} times in an epoch, once for each "
                "update: the lr goes down and up again within it",
                step=book.updates,
                where=book.where,
            )
            return
        if book.epochs == 1 and book.last and made >= PERIODS * book.last:
            book.early = True
        if book.epochs < EARLY and _is_dead(scheduler.optimizer):
            book.dead = book.updates

    def _dead(self, optimizer: torch.optim.Optimizer, book: Book) -> None:
        """SC402: updates go on, and the lr is next to nothing."""
        book.dead = None
        if _is_dead(optimizer):
            self.report(
                "SC402",
                f"the lr is {float(optimizer.param_groups[0]['lr']):.3g} and updates go on: the "
                f"schedule was stepped {book.steps} times, once for each update",
                step=book.updates,
                where=book.where,
            )

    def _end_of_epoch(self) -> None:
        starts, updates = self._loader
        if self._all > updates:
            starts[1] = 1

    def _milestones(self, book: Book) -> None:
        """SC402: milestones that are epochs, and were passed as updates."""
        epochs = min((starts for starts, trains in self._starts if trains), default=0)
        if book.early and epochs >= book.last:
            self.report(
                "SC402",
                f"the milestones up to {book.last} were passed in the first of {epochs} epochs: "
                f"{book.kind} was stepped once for each update",
                step=book.updates,
                where=book.where,
            )

    def _too_few(self, book: Book) -> None:
        """SC403: a schedule of updates that steps once for each epoch."""
        horizon = book.horizon
        if book.steps < 2 or book.least is None or book.least < MANY or not horizon:
            return
        is_counted_in_updates = horizon == book.updates
        is_through = self.expect_steps is not None and book.updates >= self.expect_steps
        if 2 * book.steps < horizon and (is_counted_in_updates or is_through):
            self.report(
                "SC403",
                f"{book.kind} is made for {horizon} steps and has made "
                f"{book.steps}, in {book.updates} updates",
                step=book.updates,
                where=book.where,
            )


def _nothing() -> None:
    return None


def _is(scheduler: Any, *names: str) -> bool:
    return isinstance(scheduler, LRScheduler) and type(scheduler).__name__ in names


def _is_dead(optimizer: torch.optim.Optimizer) -> bool:
    """Tell whether every lr has fallen to next to nothing."""
    pairs = ((group.get("lr"), group.get("initial_lr")) for group in optimizer.param_groups)
    return all(
        lr is not None and first is not None and float(first) > 0 and float(lr) <= DEAD * first
        for lr, first in pairs
    )


def _cosine(scheduler: Any) -> int:
    """Return the steps to the end of the first half wave of a cosine; 0 for another schedule."""
    if _is(scheduler, "SequentialLR"):
        ends = _cosine(scheduler._schedulers[-1])
        return scheduler._milestones[-1] + ends if ends and scheduler._milestones else ends
    return int(scheduler.T_max) if _is(scheduler, "CosineAnnealingLR") else 0


def _milestones(scheduler: Any) -> int:
    """Return the last milestone of a schedule that lowers the lr there; 0 without any."""
    if not _is(scheduler, "MultiStepLR") or scheduler.gamma >= 1:
        return 0
    return max(scheduler.milestones, default=0)


def _horizon(scheduler: Any) -> int:
    """Return the step after which nothing more happens; 0 where there is none."""
    if _is(scheduler, "SequentialLR"):
        ends = _horizon(scheduler._schedulers[-1])
        return max([0, *scheduler._milestones]) + ends if ends else 0
    if _is(scheduler, "ChainedScheduler"):
        return max(map(_horizon, scheduler._schedulers))
    if _is(scheduler, "CosineAnnealingLR"):
        return int(scheduler.T_max)
    if _is(scheduler, "OneCycleLR"):
        return int(scheduler.total_steps)
    if _is(scheduler, "LinearLR", "PolynomialLR"):
        return int(scheduler.total_iters)
    return 0
