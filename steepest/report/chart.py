"""Charts as plotly's JSON: what all of them have in common is said once, here.

Colours are CSS variables, which charts.js reads from the page, so that a chart follows the page's
light or dark. Texts inside a chart are escaped here, as plotly reads tags in them; the page escapes
all others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from steepest.report.curves import Curves
from steepest.report.kept import KeptRun
from steepest.report.series import Point

COLOURS = 8
LOG_RATIO = 20.0  # between the greatest value and the least, above which a log scale shows more
MARKED = 30  # points up to which each has a dot

Trace = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A run on the page: its name there, its place among the runs, what is known of it."""

    label: str
    index: int
    alone: bool
    kept: KeptRun
    curves: Curves

    @property
    def colour(self) -> str:
        """The run's colour, the same in every chart."""
        return f"var(--run-{self.index % COLOURS + 1})"

    @property
    def train_colour(self) -> str:
        """The colour of what was measured on the training rows."""
        return "var(--train)" if self.alone else self.colour

    @property
    def validation_colour(self) -> str:
        """The colour of what was measured on the validation rows."""
        return "var(--validation)" if self.alone else self.colour

    def named(self, what: str) -> str:
        """Return the name of one of its curves."""
        return what if self.alone else ", ".join(filter(None, (self.label, what)))


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a line ("solid", "dot"), a band or a point, and what it stands for."""

    label: str
    colour: str = "var(--ink)"
    shape: str = "solid"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart and what stands around it.

    Attributes:
        title: its heading.
        name: its place in the page.
        data, layout: plotly's JSON.
        keys: its legend.
        notes: sentences below it, a line each.
        log: whether the vertical axis starts logarithmic; None where it cannot be.
        height: in pixels; 0 for as high as it is wide.
        wide: whether it takes the page's whole width.
    """

    title: str
    name: str = ""
    data: list[Trace]
    layout: dict[str, Any] = field(default_factory=dict)
    keys: list[Key] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    log: bool | None = None
    height: int = 260
    wide: bool = False


def line(run: Reported, name: str, points: Iterable[Point], colour: str, **style: Any) -> Trace:
    """Return a curve over the run, which charts.js draws over updates, rows or seconds.

    `style` is plotly's for the line: `dash`, `width`; and `opacity`.
    """
    places, values = zip(*points, strict=True)
    opacity = style.pop("opacity", 1)
    return {
        "run": run.index,
        "type": "scatter",
        "mode": "lines+markers" if len(values) <= MARKED and opacity == 1 else "lines",
        "name": escape(run.named(name), quote=False),
        "xs": {
            axis: [rounded(place[k]) for place in places]
            for k, axis in enumerate(("step", "samples", "seconds"))
        },
        "y": [rounded(value) for value in values],
        "line": {"color": colour, "width": 2, **style},
        "marker": {"size": 5},
        "opacity": opacity,
        "hoverinfo": "skip" if opacity < 1 else "all",
        "hovertemplate": "%{y:.4~g}",
    }


def prefers_log(traces: Iterable[Trace]) -> bool | None:
    """Tell whether values are so far apart that a log scale shows more; None if it cannot be."""
    values = [y for trace in traces for y in trace["y"] if y is not None]
    if not values or min(values) <= 0:
        return None
    return max(values) / min(values) > LOG_RATIO


def rounded(value: float | None, digits: int = 5) -> float | int | None:
    """Return a number in so many digits, which keeps the page small."""
    if value is None:
        return None
    short = float(f"{value:.{digits}g}")
    return round(value) if abs(value) < 1e15 and value == int(value) else short


def plain(names: Sequence[str], most: int = 40) -> list[str]:
    """Return texts as plotly shows them unchanged, cut in the middle where they are long."""
    cut = [n if len(n) <= most else f"{n[: most // 2 - 1]}…{n[-most // 2 :]}" for n in names]
    return [escape(name, quote=False) for name in cut]
