"""How far a run is: a bar in a terminal, plain lines in a log.

Both draw by the clock: drawing a bar takes about 370 microseconds, ten batches of a small model.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

from steepest.figures import short
from steepest.train.kinds import Row

BAR_SECONDS = 0.2  # between two drawings
LINE_SECONDS = 1.0  # at least, between two lines
LINE_BATCHES = 100
WIDE = 120  # characters, from which bar and figures fit into one line
MOST_MEASURED = 2  # of validation's numbers in a bar, the loss first
EPOCH_LINES = 20  # about so many epoch lines, however many epochs, unless they are slow


@dataclass(kw_only=True)
class Place:
    """Where a run is: what is done, and what is to be done.

    Attributes:
        epoch: epochs done.
        batch: batches of this epoch done.
        step: updates done.
        samples: rows seen.
        elapsed: seconds taken.
        batches: batches in an epoch; None while that is not known.
        epochs: the most epochs, or None.
        steps: the most updates, or None.
        seconds: the longest time, or None.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    samples: int = 0
    elapsed: float = 0.0
    batches: int | None = None
    epochs: int | None = 1
    steps: int | None = None
    seconds: float | None = None

    def fraction(self) -> float | None:
        """Return how much of the run is done; None while the length of an epoch is unknown."""
        parts = []
        if self.epochs and self.batches:
            parts.append((self.epoch + min(1.0, self.batch / self.batches)) / self.epochs)
        if self.steps:
            parts.append(self.step / self.steps)
        if self.seconds:
            parts.append(self.elapsed / self.seconds)
        return min(1.0, max(parts)) if parts else None

    def ended(self) -> str | None:
        """Return which of its limits the run has reached; None while it goes on."""
        if self.epochs is not None and self.epoch >= self.epochs:
            return "epochs"
        if self.steps is not None and self.step >= self.steps:
            return "steps"
        if self.seconds is not None and self.elapsed >= self.seconds and self.step:
            return "seconds"
        return None


class Progress(Protocol):
    """What shows a run: `draw` every `seconds`, `row` after each measuring, `close` at the end."""

    seconds: float

    def draw(self, place: Place, loss: float, lr: float) -> None: ...
    def row(self, place: Place, row: Row) -> None: ...
    def close(self) -> None: ...


class Nothing:
    """Show nothing."""

    seconds = LINE_SECONDS

    def draw(self, place: Place, loss: float, lr: float) -> None:
        """Show nothing."""

    def row(self, place: Place, row: Row) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""


class Lines:
    """Plain lines for a log: one per epoch, and one per 100 batches where epochs are long.

    Neither floods a log: lines come at most once a second, and those of epochs that come faster
    are thinned out to about twenty a run. The last one is always among them.
    """

    seconds = LINE_SECONDS

    def __init__(self, start: Place, write: Callable[[str], object] | None = None) -> None:
        self._write = write or (lambda line: print(line, file=sys.stderr, flush=True))
        self._pace = Pace(start)
        self._last = perf_counter()
        self._last_hundred = (start.epoch, start.batch // LINE_BATCHES)
        self._held: list[str] = []  # the last row's line, if it was left out

    def draw(self, place: Place, loss: float, lr: float) -> None:
        """Write a line if another 100 batches of this epoch are done."""
        hundred = (place.epoch, place.batch // LINE_BATCHES)
        if hundred[1] == 0 or hundred == self._last_hundred:
            return
        self._last_hundred = hundred
        done = f"batch {place.batch}" + (f"/{place.batches}" if place.batches else "")
        parts = [_epoch(place), done, f"loss {short(loss)}", f"lr {lr:.3g}", self._pace.text(place)]
        self._line(parts)

    def row(self, place: Place, row: Row) -> None:
        """Write a row's line, unless rows come faster than a log wants them."""
        parts = [_of("epoch", row["epoch"], place.epochs), f"step {place.step}"]
        parts += [f"loss {short(row['loss'])}"] if "loss" in row else []
        parts += [_measured(row)]
        parts += [f"lr {row['lr']:.3g}"] if "lr" in row else []
        every = math.ceil(place.epochs / EPOCH_LINES) if place.epochs else 0
        due = "loss" in row and every and place.epoch % every == 0
        if due or place.ended() or perf_counter() - self._last >= LINE_SECONDS:
            self._line([*parts, self._pace.text(place)])
        else:
            self._held = parts

    def close(self) -> None:
        """Write the last row's line, if it was left out."""
        if self._held:
            self._line(self._held)

    def _line(self, parts: list[str]) -> None:
        self._last, self._held = perf_counter(), []
        self._write("  ".join(part for part in parts if part))


class Bar:
    """A bar in a terminal: epoch, loss, what validation measured, lr, speed and the time left."""

    seconds = BAR_SECONDS

    def __init__(self, name: str, start: Place, console: Any = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        self._console = console or Console(stderr=True)
        self._pace = Pace(start, smooth=0.7)
        self._validation = ""
        width = 20 if self._console.width >= WIDE else 8
        self._beside = len(name) + width + len("  ")
        self._shown = Progress(
            TextColumn("[bold]{task.description}[/bold]"),
            BarColumn(bar_width=width),
            TextColumn("{task.fields[text]}", table_column=Column(no_wrap=False)),
            console=self._console,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._shown.add_task(name, total=None, text="")
        self._shown.start()

    def draw(self, place: Place, loss: float, lr: float) -> None:
        """Draw the bar."""
        fraction = place.fraction()
        left = "" if fraction is None else f"{_clock(self._pace.seconds_left(fraction))} left"
        parts = [_epoch(place), f"loss {short(loss)}", self._validation, f"lr {lr:.3g}"]
        parts += [self._pace.text(place), left]
        self._shown.update(
            self._task,
            total=None if fraction is None else 1.0,
            completed=fraction or 0.0,
            text=_filled(parts, self._console.width - self._beside),
        )
        self._shown.refresh()

    def row(self, place: Place, row: Row) -> None:
        """Keep what validation measured for the next drawing."""
        self._validation = _measured(row, MOST_MEASURED) or self._validation
        if "loss" in row and place.ended():
            self.draw(place, row["loss"], row["lr"])

    def close(self) -> None:
        """Leave the bar as it is."""
        self._shown.stop()


class Pace:
    """How fast a run goes since it started, or went on, at a place.

    Each new figure keeps a share `smooth` of the one before, so that a bar does not flicker.
    """

    def __init__(self, start: Place, smooth: float = 0.0) -> None:
        self._smooth = smooth
        self._begin = self._time = perf_counter()
        self._samples = start.samples
        self._fraction = start.fraction() or 0.0
        self._rate = 0.0

    def text(self, place: Place) -> str:
        """Return samples per second; empty before there is a figure."""
        now = perf_counter()
        if now > self._time and place.samples > self._samples:
            rate = (place.samples - self._samples) / (now - self._time)
            share = self._smooth if self._rate else 0.0
            self._rate = share * self._rate + (1 - share) * rate
        self._time, self._samples = now, place.samples
        if self._rate == 0:
            return ""
        return f"{self._rate:,.0f} samples/s" if self._rate >= 10 else f"{self._rate:.2g} samples/s"

    def seconds_left(self, fraction: float) -> float:
        """Return the seconds left, counting validation and all else as it was so far."""
        done = fraction - self._fraction
        spent = perf_counter() - self._begin
        return math.inf if done <= 0 else spent * (1 - fraction) / done


def open_progress(name: str, start: Place, *, shown: bool = True) -> Progress:
    """Return a bar where stderr is a terminal, plain lines elsewhere, nothing if not shown."""
    if not shown:
        return Nothing()
    return Bar(name, start) if sys.stderr.isatty() else Lines(start)


def _epoch(place: Place) -> str:
    if place.epochs is None and place.steps is not None:
        return f"step {place.step:,}/{place.steps:,}"
    epoch = place.epoch + 1
    return _of("epoch", epoch if place.epochs is None else min(epoch, place.epochs), place.epochs)


def _filled(parts: list[str], room: int) -> str:
    """Return the parts in lines of at most so many characters, if no part is longer."""
    lines = [""]
    for part in filter(None, parts):
        longer = f"{lines[-1]}  {part}" if lines[-1] else part
        if len(longer) <= room or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(part)
    return "\n".join(lines)


def _of(what: str, number: int, end: int | None) -> str:
    return f"{what} {number}" if end is None else f"{what} {number}/{end}"


def _measured(row: Row, most: int | None = None) -> str:
    """Return what validation measured, the loss first: "validation loss 0.25, r2 0.9"."""
    found = {name: value for name, value in row.items() if name.startswith("validation_")}
    parts = [
        f"{name.removeprefix('validation_')} {'-' if value is None else short(value)}"
        for name, value in found.items()
    ]
    return f"validation {', '.join(parts[:most])}" if parts else ""


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "-:--"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
