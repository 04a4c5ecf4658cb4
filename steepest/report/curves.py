"""metrics.jsonl -> curves, and the rows at which a run was best and at which it ended."""

import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steepest.report.kept import METRICS, KeptRun
from steepest.report.series import Place, Series
from steepest.report.values import mapping, number, parsed, text, whole

LINE_BYTES = 8 * 2**20
NAMES = 100  # curves that are kept, apart from those of the layers
LAYERS = 1000
LAYER_POINTS = 120
STEP_LINE = b'{"kind": "step"'
KINDS = ("step", "epoch", "validation")
PLACES = ("kind", "epoch", "step", "samples", "seconds", "ratios")

Row = Mapping[str, Any]


@dataclass
class Milestones:
    """The row where the monitored metric was best, the last row, and where numbers ended."""

    monitor: str = ""
    mode: str = "min"
    best: Row = field(default_factory=dict)
    last: Row = field(default_factory=dict)
    epochs: int = 0
    steps: int = 0
    seconds: float | None = None
    lost: int | None = None  # the first update whose loss was not finite

    def see(self, row: Row) -> None:
        """Take a row of the metrics into account."""
        self.steps = max(self.steps, whole(row.get("step")) or 0)
        self.seconds = number(row.get("seconds")) or self.seconds
        if self.lost is None and "loss" in row and number(row["loss"]) is None:
            self.lost = self.steps
        if row.get("kind") == "step":
            return
        if row.get("kind") == "epoch":
            self.epochs = max(self.epochs, whole(row.get("epoch")) or 0)
            self.last = row
        value = self.monitored(row)
        if value is not None and self._is_better(value):
            self.best = row

    def monitored(self, row: Row) -> float | None:
        """Return the row's value of the metric that decides."""
        return number(row.get(self.name_in(row)))

    def name_in(self, row: Row) -> str:
        """Return the name of the metric that decides, as the row has it."""
        names = (self.monitor, f"validation_{self.monitor}", "validation_loss", "loss")
        return next((name for name in names if name in row), "loss")

    def _is_better(self, value: float) -> bool:
        known = self.monitored(self.best)
        if known is None:
            return True
        return value > known if self.mode == "max" else value < known


@dataclass
class Curves:
    """What metrics.jsonl tells of a run.

    Attributes:
        steps: name -> curve over the updates: loss, lr, gradient_norm.
        epochs: name -> curve over the epochs: the mean loss.
        validation: name, without "validation_" -> curve.
        ratios: parameter -> curve of its update's norm / its own norm.
        milestones: the best row and the last one.
        faults: a sentence for each thing that could not be read.
    """

    steps: dict[str, Series] = field(default_factory=dict)
    epochs: dict[str, Series] = field(default_factory=dict)
    validation: dict[str, Series] = field(default_factory=dict)
    ratios: dict[str, Series] = field(default_factory=dict)
    milestones: Milestones = field(default_factory=Milestones)
    faults: list[str] = field(default_factory=list)


def read_curves(run: KeptRun) -> Curves:
    """Return a run's curves; memory is bounded, whatever the file's length."""
    curves = Curves(milestones=milestones_of(run))
    for row in rows(run.folder / METRICS, curves.faults):
        curves.milestones.see(row)
        _add(curves, row)
    return curves


def read_milestones(run: KeptRun) -> Milestones:
    """Return a run's best row and its last one, without reading the rows between epochs."""
    found = milestones_of(run)
    for row in rows(run.folder / METRICS, [], steps=False):
        found.see(row)
    return found


def milestones_of(run: KeptRun) -> Milestones:
    """Return milestones of the metric that the run watched, with nothing seen yet."""
    return Milestones(monitor=run.monitor, mode=run.mode)


def rows(path: Path, faults: list[str], *, steps: bool = True) -> Iterator[Row]:
    """Yield the rows of a metrics file; a torn last line is what a killed run leaves."""
    damaged = 0
    try:
        for line, ended in _lines(path):
            if not steps and line.startswith(STEP_LINE):
                continue
            row: Any = None
            with suppress(ValueError):
                row = parsed(line)
            if isinstance(row, dict) and row.get("kind") in KINDS:
                yield row
            elif ended:
                damaged += 1
    except FileNotFoundError:
        faults.append(f"{path.name} is missing, so there are no curves.")
    except OSError as error:
        faults.append(f"{path.name} cannot be read ({error.strerror}), so there are no curves.")
    if damaged:
        lines = "A line" if damaged == 1 else f"{damaged:,} lines"
        verb = "is" if damaged == 1 else "are"
        faults.append(f"{lines} of {path.name} {verb} damaged and left out.")


def _lines(path: Path) -> Iterator[tuple[bytes, bool]]:
    """Yield each line and whether it was ended; one beyond the bound comes in pieces."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(0, "it is no plain file")
    with path.open("rb") as file:
        while line := file.readline(LINE_BYTES):
            yield line, line.endswith(b"\n") or len(line) == LINE_BYTES


def _add(curves: Curves, row: Row) -> None:
    place = Place(*(number(row.get(key)) or 0.0 for key in ("step", "samples", "seconds")))
    group = curves.steps if row.get("kind") == "step" else curves.epochs
    for key, value in row.items():
        if key.startswith("validation_"):
            _series(curves.validation, key.removeprefix("validation_"), NAMES).add(
                place, number(value)
            )
        elif key not in PLACES:
            _series(group, key, NAMES).add(place, number(value))
    for name, value in mapping(row.get("ratios")).items():
        _series(curves.ratios, name, LAYERS, LAYER_POINTS).add(place, number(value))


def _series(group: dict[str, Series], name: str, most: int, limit: int = 400) -> Series:
    name = text(name)
    if name not in group:
        if len(group) >= most:
            return Series(1)
        group[name] = Series(limit)
    return group[name]
