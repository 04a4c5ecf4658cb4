"""The tables of the page: options, model, optimizer, learned numbers."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from steepest.figures import ABSENT, MINUS, short
from steepest.report.chart import Reported
from steepest.report.headline import Compared
from steepest.report.kept import KeptRun
from steepest.report.values import items, mapping, text, whole

MODULES = 500  # rows of a table of modules
GROUPS = 50


@dataclass(frozen=True)
class Bar:
    """A learned number as text, and as a bar from zero: its start and width in percent."""

    value: str
    start: float
    width: float


def options(runs: Sequence[KeptRun]) -> tuple[list[Compared], list[Compared]]:
    """Return the options in which runs differ, and those that all of them share."""
    names = dict.fromkeys(name for run in runs for name in run.options)
    rows = [
        Compared(text(name), [option_text(run.options, name) for run in runs]) for name in names
    ]
    if any(run.recipe for run in runs):
        rows.insert(0, Compared("recipe", [run.recipe or ABSENT for run in runs]))
    differ = [row for row in rows if len(set(row.values)) > 1]
    return differ, [row for row in rows if len(set(row.values)) == 1]


def option_text(given: Mapping[str, Any], name: str) -> str:
    """Return an option's value as text, a dash where the run has no such option."""
    if name not in given:
        return ABSENT
    value = given[name]
    if value is None:
        return "none"
    return short(value) if isinstance(value, float) else text(value)


def command(run: KeptRun) -> str:
    """Return the command that made the run; nothing where it is not known."""
    if not run.recipe:
        return ""
    return shlex.join(["steepest", "train", run.recipe, *run.arguments])


def modules(run: KeptRun) -> list[tuple[str, str, str, str]]:
    """Return name, type, shape and parameters of each module."""
    return [
        (
            text(module.get("name")) or "(the model)",
            text(module.get("type")),
            text(module.get("shape")),
            short(whole(module.get("parameters")) or None),
        )
        for module in map(mapping, items(run.facts.get("model"))[:MODULES])
    ]


def groups(runs: Sequence[Reported]) -> tuple[list[str], list[tuple[Reported, list[str]]]]:
    """Return head and rows of the table of the optimizers' param groups, each with its run."""
    found = [
        (run, text(optimizer.get("name")), mapping(group))
        for run in runs
        for optimizer in [mapping(run.kept.facts.get("optimizer"))]
        for group in items(optimizer.get("groups"))[:GROUPS]
    ]
    names = dict.fromkeys(name for *_, group in found for name in _options(group))
    rows = [(run, _group(optimizer, group, list(names))) for run, optimizer, group in found]
    return ["optimizer", "tensors", "parameters", *map(text, names)], rows


def facts(run: KeptRun) -> list[tuple[str, str]]:
    """Return what else is known of a run: its data, schedule, versions."""
    data = mapping(run.facts.get("data"))
    pairs = [
        ("schedule", text(run.facts.get("schedule"))),
        ("training rows", short(whole(data.get("rows")))),
        ("validation rows", short(whole(data.get("validation_rows")))),
        ("batch size", short(whole(data.get("batch_size")))),
        ("batches in an epoch", short(whole(data.get("batches")))),
        *run.versions.items(),
    ]
    return [(name, value) for name, value in pairs if value not in ("", ABSENT)]


def learned(numbers: Sequence[Mapping[str, float]]) -> list[tuple[str, list[Bar | None]]]:
    """Return each learned number by name, with its bar in each run."""
    names = dict.fromkeys(name for one in numbers for name in one)
    values = [abs(value) for one in numbers for value in one.values() if isfinite(value)]
    most = max(values, default=0.0) or 1.0
    return [
        (name, [_bar(one[name], most) if name in one else None for one in numbers])
        for name in names
    ]


def _group(optimizer: str, group: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    counts = [short(whole(group.get(key))) for key in ("tensors", "parameters")]
    given = _options(group)
    return [optimizer or ABSENT, *counts, *(option_text(given, name) for name in names)]


def _options(group: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a group's options with the lr that it began with, not what a schedule left of it."""
    given = dict(mapping(group.get("options")))
    if "initial_lr" in given:
        given |= {"lr": given.pop("initial_lr")}
    return given


def _bar(value: float, most: float) -> Bar:
    if not isfinite(value):
        return Bar(str(value), 50, 0)
    width = 50 * abs(value) / most
    start = 50 - width if value < 0 else 50
    return Bar(short(value).replace("-", MINUS), round(start, 2), round(width, 2))
