"""Runs -> one HTML page, which opens from a file and asks no network for anything."""

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

from steepest.errors import RecipeError
from steepest.figures import short
from steepest.report import headline, tables
from steepest.report.chart import Chart, Reported
from steepest.report.curves import read_curves
from steepest.report.evaluation import (
    CLASSES,
    Classification,
    Evaluation,
    Regression,
    confusion_chart,
    read_evaluation,
    recall_chart,
    regression_charts,
)
from steepest.report.kept import labels, read_run
from steepest.report.layers import BAND_NOTE, ratio_charts
from steepest.report.learned import read_learned
from steepest.report.training import loss_chart, metric_charts, step_charts

GENERATOR = '<meta name="generator" content="steepest report">'


@dataclass(frozen=True)
class Section:
    """A part of the page with charts: its name in links, its heading, charts and sentences."""

    name: str
    title: str
    charts: list[Chart]
    notes: list[str]


def write_report(folders: Sequence[Path], out: Path) -> int:
    """Write a page about the runs in these folders to `out`; return its length in bytes.

    Raises:
        RecipeError: a folder holds no run, or the file cannot be written or is not a report.
    """
    text = report_page([Path(folder) for folder in folders])
    data = text.encode("utf-8", "replace")
    try:
        if out.exists() and not _is_report(out):
            raise RecipeError(
                f"A report takes a new file or the place of an earlier report: {out} is neither; "
                "name another with --out"
            )
        out.write_bytes(data)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise RecipeError(
            f"The report cannot be written to {out} ({reason}): name another file with --out"
        ) from None
    return len(data)


def report_page(folders: Sequence[Path]) -> str:
    """Return the page about the runs in these folders as HTML.

    Raises:
        RecipeError: a folder holds no run.
    """
    runs = _reported(folders)
    faults = [[*run.kept.faults, *run.curves.faults] for run in runs]
    read = [
        (run, read_evaluation(run.kept.folder, fault))
        for run, fault in zip(runs, faults, strict=True)
    ]
    learned = [read_learned(r.kept.folder, fault) for r, fault in zip(runs, faults, strict=True)]
    sections = _numbered(part for part in _sections(runs, read) if part.charts or part.notes)
    charts = [chart for part in sections for chart in part.charts]
    differ, shared = tables.options([run.kept for run in runs])
    return _template().render(
        title=runs[0].label if len(runs) == 1 else f"{len(runs)} runs",
        runs=runs,
        faults=[
            (run.label, said) for run, fault in zip(runs, faults, strict=True) for said in fault
        ],
        sections={part.name: part for part in sections},
        places=_places(charts),
        learned=tables.learned(learned),
        models=_alike(runs, lambda run: tables.modules(run.kept)),
        groups=tables.groups(runs),
        facts=_alike(runs, lambda run: tables.facts(run.kept)),
        commands=[(run, said) for run in runs if (said := tables.command(run.kept))],
        differ=differ,
        shared=shared,
        charts={chart.name: _drawn(chart) for chart in charts},
        tables=tables,
        headline=headline,
    )


def _reported(folders: Sequence[Path]) -> list[Reported]:
    found = [read_run(folder) for folder in folders]
    return [
        Reported(label=label, index=k, alone=len(found) == 1, kept=run, curves=read_curves(run))
        for k, (run, label) in enumerate(zip(found, labels(found), strict=True))
    ]


def _sections(
    runs: Sequence[Reported], read: Sequence[tuple[Reported, Evaluation | None]]
) -> Iterable[Section]:
    loss = loss_chart(runs)
    curves = [*([loss] if loss else []), *metric_charts(runs), *step_charts(runs)]
    yield Section("curves", "Curves", curves, [])
    layers = ratio_charts(runs)
    banded = len(runs) > 1 and layers and layers[0].log
    yield Section("layers", "Layers", layers, [BAND_NOTE] if banded else [])
    regressions = [(run, found) for run, found in read if isinstance(found, Regression)]
    classified = [(run, found) for run, found in read if isinstance(found, Classification)]
    few = [(run, found) for run, found in classified if len(found.classes) <= CLASSES]
    charts = [*regression_charts(regressions), *(confusion_chart(*pair) for pair in few)]
    recall = recall_chart(few) if few else None
    notes = [
        f"{run.label}: {found.said()} A table of {len(found.classes):,} classes is not drawn."
        for run, found in classified
        if len(found.classes) > CLASSES
    ]
    yield Section("predictions", "Predictions", [*charts, *([recall] if recall else [])], notes)


def _numbered(sections: Iterable[Section]) -> list[Section]:
    """Give each chart a name in the page."""
    number = count(1)
    return [
        replace(part, charts=[replace(c, name=f"chart-{next(number)}") for c in part.charts])
        for part in sections
    ]


def _alike(
    runs: Sequence[Reported], read: Callable[[Reported], Any]
) -> list[tuple[list[str], Any]]:
    """Return what was read for each run, once for all runs in which it is the same."""
    found: list[tuple[list[str], Any]] = []
    for run in runs:
        value = read(run)
        same = next((names for names, other in found if other == value), None)
        if same is not None:
            same.append(run.label)
        elif value:
            found.append(([run.label], value))
    return found


def _places(charts: Iterable[Chart]) -> list[str]:
    """Return over what the curves can be drawn: what was written in any row of the metrics."""
    traces = [trace for chart in charts for trace in chart.data if "xs" in trace]
    return [
        place
        for place in ("step", "samples", "seconds")
        if any(any(trace["xs"][place]) for trace in traces)
    ]


def _drawn(chart: Chart) -> dict[str, Any]:
    return {
        "data": chart.data,
        "layout": chart.layout,
        "log": bool(chart.log),
        "height": chart.height,
    }


def _is_report(path: Path) -> bool:
    with path.open("rb") as file:
        return GENERATOR.encode() in file.read(1000)


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    from steepest import __version__

    room = files("steepest.report") / "templates"
    scripts = [get_plotlyjs(), (room / "charts.js").read_text("utf-8")]
    world = Environment(
        autoescape=True,
        loader=PackageLoader("steepest.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    world.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    world.filters["short"] = short
    world.globals |= {
        "generator": Markup(GENERATOR),
        "scripts": [Markup(script) for script in scripts],  # our own files, and plotly's
        "hashes": Markup(" ".join(map(_hash, scripts))),
        "style": Markup((room / "style.css").read_text("utf-8")),
        "version": __version__,
    }
    return world.get_template("page.html.jinja")


def _hash(script: str) -> str:
    """Return what a page's policy calls a script that may run: a planted one has no such hash."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
