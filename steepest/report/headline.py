"""The figures that a reader looks for first: of one run, or of several beside each other."""

from collections.abc import Sequence
from dataclasses import dataclass

from steepest.figures import ABSENT, counted, duration, short
from steepest.report.chart import Reported
from steepest.report.curves import Milestones
from steepest.report.training import said
from steepest.report.values import number, text, whole


@dataclass(frozen=True)
class Figure:
    """A headline figure: its name, the figure, and a word more."""

    name: str
    value: str
    more: str = ""


@dataclass(frozen=True)
class Compared:
    """A name and what each run has for it; `best` are the places of the best values."""

    name: str
    values: list[str]
    best: frozenset[int] = frozenset()


def subtitle(run: Reported) -> str:
    """Return what the run is, when it began and why it ended."""
    started, ended = run.kept.started, text(run.kept.facts.get("ended"))
    parts = [run.kept.recipe]
    if started is not None:
        parts.append(f"{started.day} {started:%B %Y, %H:%M}")
    if ended not in ("", "epochs"):
        parts.append(f"ended by {ended}")
    return " · ".join(filter(None, parts))


def headline(run: Reported) -> list[Figure]:
    """Return a run's figures; none for what is not known."""
    milestones, facts = run.curves.milestones, run.kept.facts
    figures = _best_figures(run)
    if milestones.steps:
        more = counted(milestones.steps, "update")
        figures.append(Figure("Epochs", short(milestones.epochs), more))
    seconds = run.kept.seconds or milestones.seconds
    if seconds is not None:
        figures.append(Figure("Time", duration(seconds), _pace(milestones)))
    if run.kept.parameters is not None:
        figures.append(Figure("Parameters", short(run.kept.parameters)))
    if facts.get("device"):
        threads = whole(facts.get("threads"))
        more = [text(facts.get("precision")), counted(threads, "thread") if threads else ""]
        figures.append(Figure("Device", text(facts["device"]), ", ".join(filter(None, more))))
    return figures


def metrics(run: Reported) -> tuple[list[str], list[list[str]]]:
    """Return the metrics' names, and a row of values with the best weights and one at the end."""
    names = _measured([run])
    ends = {"Best": run.curves.milestones.best, "End": run.curves.milestones.last}
    rows = [
        [when, short(whole(row.get("epoch"))), *(short(number(row.get(name))) for name in names)]
        for when, row in ends.items()
    ]
    return ["epoch", *map(_metric, names)], rows if names else []


def comparison(runs: Sequence[Reported]) -> list[Compared]:
    """Return the figures of several runs beside each other, those that any run has."""
    found = [run.curves.milestones for run in runs]
    seconds = [run.kept.seconds or one.seconds for run, one in zip(runs, found, strict=True)]
    rows = [
        Compared("Status", [run.kept.status for run in runs]),
        *(_compared(runs, name) for name in _measured(runs)),
        Compared("Best epoch", [short(whole(one.best.get("epoch"))) for one in found]),
        Compared("Epochs", [short(one.epochs) for one in found]),
        Compared("Updates", [short(one.steps) for one in found]),
        Compared("Time", [duration(one) for one in seconds]),
        Compared("Parameters", [short(run.kept.parameters) for run in runs]),
        Compared("Device", [text(run.kept.facts.get("device")) or ABSENT for run in runs]),
    ]
    return [row for row in rows if set(row.values) != {ABSENT}]


def _best_figures(run: Reported) -> list[Figure]:
    milestones = run.curves.milestones
    best, last = milestones.monitored(milestones.best), milestones.monitored(milestones.last)
    if best is None:
        return []
    name = said(milestones.name_in(milestones.best))
    name = name[0].lower() + name[1:]
    epoch = short(whole(milestones.best.get("epoch")))
    figures = [Figure(f"Best {name}", short(best), f"epoch {epoch}")]
    if last is not None and milestones.last is not milestones.best:
        figures.append(Figure(f"Final {name}", short(last), f"epoch {short(milestones.epochs)}"))
    return figures


def _pace(milestones: Milestones) -> str:
    """Return how fast the updates came; `seconds` of the metrics leave out start and end."""
    if not milestones.seconds or not milestones.steps:
        return ""
    return f"{short(float(f'{milestones.steps / milestones.seconds:.3g}'))} updates/s"


def _measured(runs: Sequence[Reported]) -> list[str]:
    """Return the names of what the epochs of any run measured."""
    names = dict.fromkeys(name for run in runs for name in run.curves.milestones.last)
    return [name for name in names if name == "loss" or name.startswith("validation_")]


def _metric(name: str) -> str:
    return "Train loss" if name == "loss" else said(name)


def _compared(runs: Sequence[Reported], name: str) -> Compared:
    """Return a metric with each run's best weights; which is best where that is known."""
    values = [number(run.curves.milestones.best.get(name)) for run in runs]
    known = [value for value in values if value is not None]
    modes = {run.kept.mode for run in runs if _chose(run, name)}
    if name.endswith("loss"):
        modes |= {"min"}
    best: float | None = None
    if len(set(known)) > 1 and len(modes) == 1:
        best = max(known) if modes == {"max"} else min(known)
    at = frozenset(k for k, value in enumerate(values) if value is not None and value == best)
    return Compared(_metric(name), [short(value) for value in values], at)


def _chose(run: Reported, name: str) -> bool:
    """Tell whether this is the metric that chose the run's best weights."""
    milestones = run.curves.milestones
    return milestones.name_in(milestones.best) == name
