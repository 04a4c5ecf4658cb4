"""Clock: when something beside the five steps is due."""

import math
from time import perf_counter

from steepest.train.run import Run
from steepest.train.shown.progress import Place

LOOK_SECONDS = 0.005  # between two looks at the clock, which takes as long as counting an update
LOOK_STEPS = 16  # at most, as updates may become slow


class Clock:
    """When a run draws, saves, logs, validates and ends, by updates and by seconds.

    Attributes:
        watching: whether the metrics tell of the next update.
        next_look: the update after which to ask `due`; others need no question.
        next_draw: the time of the next drawing.
        next_save: the time of the next checkpoint.
        before: the seconds of the parts before of a resumed run.
    """

    def __init__(self, run: Run, place: Place) -> None:
        self.run = run
        self.place = place
        self.before = 0.0
        self._begin = perf_counter()

    def start(self, draw_seconds: float) -> None:
        """Begin to train, and to draw every so many seconds."""
        run = self.run
        self._begin = perf_counter()
        self._looked = (self.place.step, self._begin)
        self._hurried = False
        self.next_draw = self._begin + draw_seconds
        kept = run.folder is not None
        self.next_save = self._begin + run.checkpoint_seconds if kept else math.inf
        self._end = self._begin + (math.inf if run.seconds is None else run.seconds - self.before)
        self.next_look = 0
        self._plan()
        self.set()

    @property
    def seconds(self) -> float:
        """The time taken so far, all parts of a resumed run together."""
        return self.before + perf_counter() - self._begin

    @property
    def rings(self) -> bool:
        """Whether it is time to draw, to save or to end."""
        return perf_counter() >= self._next

    def set(self) -> None:
        """Set when it rings next."""
        self._next = min(self.next_draw, self.next_save, self._end)
        if self._hurried:  # meanwhile
            self._next = -math.inf

    def hurry(self) -> None:
        """Let it ring after this update."""
        self._hurried = True
        self._next, self.next_look = -math.inf, 0

    def due(self) -> bool:
        """Tell whether anything is due after this update, and set when to ask again."""
        step = self.place.step
        due = step >= self._rare or self.rings
        if due:
            self._plan()
        before, then = self._looked
        self._looked = (step, perf_counter())
        few = LOOK_SECONDS * (step - before) / max(self._looked[1] - then, 1e-9)
        self.next_look = min(self._rare, step + min(max(1, int(few)), LOOK_STEPS))
        if self._hurried:  # meanwhile
            self.next_look = 0
        return due

    def _plan(self) -> None:
        """Set the next update after which something rare happens, and whether one is watched."""
        run, step, logged = self.run, self.place.step, self.run.log_steps
        self.watching = run.folder is not None and (step + 1) % logged == 0
        every = (logged, run.validate_steps or logged)
        rare = [step - step % n + n for n in every]
        rare.append(step - (step + 1) % logged + logged)  # before the update that is watched
        if run.steps is not None and run.steps > step:
            rare.append(run.steps)
        self._rare = min(rare)
