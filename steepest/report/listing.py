"""The runs of a folder as a table: what each was made with and what came of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from steepest.errors import RecipeError, nearest
from steepest.figures import ABSENT, duration, short
from steepest.report.curves import read_milestones
from steepest.report.kept import KeptRun, labels
from steepest.report.tables import option_text
from steepest.report.values import mapping, number, whole


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """A run in the list.

    Attributes:
        best: the best value of the metric `monitor`; `higher` tells whether more is better.
        validation_loss: at the end.
        seconds: the time taken.
    """

    name: str
    kept: KeptRun
    epochs: int
    steps: int
    monitor: str
    best: float | None
    higher: bool
    validation_loss: float | None
    seconds: float | None

    def told(self) -> dict[str, Any]:
        """Return what is known, for a program."""
        started = self.kept.started
        return {
            "name": self.name,
            "folder": str(self.kept.folder),
            "recipe": self.kept.recipe,
            "status": self.kept.status,
            "epochs": self.epochs,
            "steps": self.steps,
            "best": {"name": self.monitor, "value": self.best},
            "validation_loss": self.validation_loss,
            "seconds": self.seconds,
            "started": None if started is None else started.isoformat(),
            "options": dict(self.kept.options),
        }


COLUMNS: Mapping[str, Callable[[ListedRun], Any]] = {
    "name": lambda run: run.name,
    "recipe": lambda run: run.kept.recipe or None,
    "status": lambda run: run.kept.status,
    "epochs": lambda run: run.epochs,
    "steps": lambda run: run.steps,
    "best": lambda run: run.best,
    "validation_loss": lambda run: run.validation_loss,
    "seconds": lambda run: run.seconds,
    "started": lambda run: run.kept.started and run.kept.started.timestamp(),
}
"""The columns of every list: name -> a run's value, None where it is not known."""


def listed(runs: Sequence[KeptRun]) -> list[ListedRun]:
    """Return the runs as they are listed."""
    return [_listed(run, name) for run, name in zip(runs, labels(runs), strict=True)]


def ordered(runs: Sequence[ListedRun], column: str, *, reverse: bool = False) -> list[ListedRun]:
    """Return the runs by a column or an option, runs without a value last.

    By `best` the best one is first among those of one task: the same recipe, data and metric.

    Raises:
        RecipeError: no run has such a column.
    """
    known = [run for run in runs if _value(run, column) is not None]
    if not known and column not in COLUMNS:
        check_columns(runs, [column])
    first = sorted(known, key=lambda run: _key(run, column), reverse=reverse)
    if column == "best":
        first.sort(key=_task)
    return first + [run for run in runs if _value(run, column) is None]


def check_columns(runs: Sequence[ListedRun], columns: Sequence[str]) -> None:
    """Refuse a column that no run has.

    Raises:
        RecipeError: so it is.
    """
    names = dict.fromkeys([*COLUMNS, *(name for run in runs for name in run.kept.options)])
    for column in columns:
        if column not in names:
            raise RecipeError(
                f"A column is one of {', '.join(names)}: got {column}{nearest(column, names)}"
            )


def differing(runs: Sequence[ListedRun]) -> list[str]:
    """Return the options, but for the columns, whose values differ among runs that have them."""
    every = dict.fromkeys(name for run in runs for name in run.kept.options)
    names = [name for name in every if name not in COLUMNS]
    values = {
        name: {option_text(r.kept.options, name) for r in runs if name in r.kept.options}
        for name in names
    }
    return [name for name, found in values.items() if len(found) > 1]


def cell(run: ListedRun, column: str, now: datetime, *, one_metric: bool) -> str:
    """Return a column of a run as text."""
    value = _value(run, column)
    if column in run.kept.options and column not in COLUMNS:
        return option_text(run.kept.options, column)
    if value is None:
        return ABSENT
    match column:
        case "seconds":
            return duration(value)
        case "started":
            return since(now.timestamp() - value)
        case "best":
            return short(value) + ("" if one_metric else f" {run.monitor}")
    return short(value) if isinstance(value, int | float) else str(value)


def since(seconds: float) -> str:
    """Return how long ago something was."""
    if seconds < 45:
        return "just now"
    for name, length in {"min": 60, "h": 3600, "d": 86400}.items():
        if seconds < {"min": 5400, "h": 129600}.get(name, float("inf")):
            return f"{max(1, round(seconds / length)):,} {name} ago"
    raise AssertionError


def _listed(run: KeptRun, name: str) -> ListedRun:
    """Take what run.json tells of the end; a run that has not ended has only its metrics."""
    final, best = mapping(run.facts.get("final")), mapping(run.facts.get("best"))
    seconds, metric, value = run.seconds, run.monitor, number(best.get("value"))
    if not final:
        found = read_milestones(run)
        final = {**found.last, "epoch": found.epochs, "step": found.steps}
        seconds = found.seconds if seconds is None else seconds
        metric, value = found.name_in(found.best), found.monitored(found.best)
    return ListedRun(
        name=name,
        kept=run,
        epochs=whole(final.get("epoch")) or 0,
        steps=whole(final.get("step")) or 0,
        monitor=metric,
        best=value,
        higher=run.mode == "max",
        validation_loss=number(final.get("validation_loss")),
        seconds=seconds,
    )


def _value(run: ListedRun, column: str) -> Any:
    return COLUMNS[column](run) if column in COLUMNS else run.kept.options.get(column)


def _task(run: ListedRun) -> tuple[str, ...]:
    """Return what runs have in common whose best values can be compared."""
    data = [option_text(run.kept.options, name) for name in ("data", "target")]
    return run.kept.recipe, *data, run.monitor


def _key(run: ListedRun, column: str) -> tuple[Any, ...]:
    """Return what sorts a value: numbers before texts, the better metric first."""
    value = _value(run, column)
    found = number(value)
    if found is not None and column == "best" and run.higher:
        found = -found
    return (0, found, "") if found is not None else (1, 0.0, str(value))
