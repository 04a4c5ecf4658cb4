"""How far each parameter moves in an update, relative to its own size.

About one thousandth is where trainings that go well were seen (Karpathy 2015, "Ratio of
weights:updates", https://cs231n.github.io/neural-networks-3/): much more and a layer is torn
about, much less and it hardly learns. A rule of thumb, so the page marks it and judges nothing.
"""

from collections.abc import Sequence
from statistics import median

from steepest.figures import counted, short
from steepest.report.chart import Chart, Key, Reported, Trace, line, plain, rounded
from steepest.report.series import Series

HEALTHY = 1e-3
BAND = (10**-3.5, 10**-2.5)
LINES = 8  # parameters up to which each has a line of its own, above a row of a heat map
ROWS = 100  # of a heat map
MEANS = 160
FLOOR = 1e-6
BAND_KEY = Key("about 0.001", "var(--band)", "band")
BAND_NOTE = "The band marks updates of about a thousandth of a parameter's size."
LOG_SPAN = 2  # powers of ten beside the healthy ratio where the colours end


def ratio_charts(runs: Sequence[Reported]) -> list[Chart]:
    """Return the update-to-parameter ratios: lines for few parameters, else heat maps.

    Few parameters of several runs have a chart each, in which the runs can be compared.
    """
    measured = [(run, found) for run in runs if (found := _measured(run))]
    names = dict.fromkeys(name for _, found in measured for name in found)
    if len(names) > LINES:
        return [_heat_map(run, found) for run, found in measured]
    if len(runs) == 1:
        return [_lines(run, found) for run, found in measured]
    return [_compared(name, measured) for name in names]


def _measured(run: Reported) -> dict[str, Series]:
    return {name: series for name, series in run.curves.ratios.items() if series}


def _lines(run: Reported, found: dict[str, Series]) -> Chart:
    colours = [f"var(--layer-{k + 1})" for k in range(len(found))]
    data = [
        line(run, name, series.means(MEANS), colour, width=1.75) | {"mode": "lines"}
        for (name, series), colour in zip(found.items(), colours, strict=True)
    ]
    keys = [Key(name, colour) for name, colour in zip(found, colours, strict=True)]
    return Chart(
        title="Update / parameter",
        data=data,
        layout={"shapes": _band(), "yaxis": {"range": _range(data)}},
        keys=[*keys, BAND_KEY],
        notes=[_typical(found)],
        log=True,
        height=320,
        wide=True,
    )


def _compared(name: str, measured: Sequence[tuple[Reported, dict[str, Series]]]) -> Chart:
    data = [
        line(run, "", found[name].means(MEANS), run.colour, width=1.75) | {"mode": "lines"}
        for run, found in measured
        if name in found
    ]
    layout = {"shapes": _band(), "yaxis": {"range": _range(data)}}
    return Chart(title=name, data=data, layout=layout, log=True, height=210)


def _range(data: Sequence[Trace]) -> list[float]:
    """Return the axis' ends: a ratio far below one in a million is as good as none."""
    values = [y for trace in data for y in trace["y"] if y and y > FLOOR]
    return [min(*values, *BAND) / 1.3, max(*values, *BAND) * 1.3]


def _band() -> list[Trace]:
    across = {"xref": "paper", "x0": 0, "x1": 1, "layer": "below"}
    low, high = BAND
    return [
        across
        | {"type": "rect", "y0": low, "y1": high, "fillcolor": "var(--band)", "line": {"width": 0}},
        across
        | {
            "type": "line",
            "y0": HEALTHY,
            "y1": HEALTHY,
            "line": {"color": "var(--faint)", "width": 1, "dash": "dot"},
        },
    ]


def _heat_map(run: Reported, found: dict[str, Series]) -> Chart:
    shown = _selected(list(found))
    rows = [found[name].means(2 * len(found[name].buckets)) for name in shown]
    longest = max(rows, key=len)
    centre = -3.0
    trace: Trace = {
        "run": run.index,
        "type": "heatmap",
        "xs": {
            axis: [rounded(place[k]) for place, _ in longest]
            for k, axis in enumerate(("step", "samples", "seconds"))
        },
        "y": plain(shown),
        "ratios": [[rounded(value, 3) for _, value in row] for row in rows],
        "zmin": centre - LOG_SPAN,
        "zmax": centre + LOG_SPAN,
        "colorscale": [[0, "var(--low)"], [0.5, "var(--middle)"], [1, "var(--high)"]],
        "colorbar": {
            "tickvals": [-5, -4, -3, -2, -1],
            "ticktext": ["10⁻⁵", "10⁻⁴", "10⁻³", "10⁻²", "10⁻¹"],
            "thickness": 10,
            "outlinewidth": 0,
        },
        "hovertemplate": "%{y}<br>%{customdata:.2~g} at %{x:,}<extra></extra>",
    }
    few = "" if len(shown) == len(found) else f" {len(shown)} of {len(found):,} are drawn."
    return Chart(
        title="Update / parameter" + ("" if run.alone else f", {run.label}"),
        data=[trace],
        layout={"yaxis": {"autorange": "reversed", "type": "category", "showgrid": False}},
        notes=[_typical(found) + few],
        height=max(220, min(760, 90 + 16 * len(shown))),
        wide=True,
    )


def _selected(names: list[str]) -> list[str]:
    """Return at most so many names, evenly from the first layer to the last."""
    if len(names) <= ROWS:
        return names
    return [names[k * (len(names) - 1) // (ROWS - 1)] for k in range(ROWS)]


def _typical(found: dict[str, Series]) -> str:
    """Say how far the parameters moved in an update, by the median over the run."""
    ratios = {name: median(_finite(series)) for name, series in found.items()}
    low, high = min(ratios, key=lambda n: ratios[n]), max(ratios, key=lambda n: ratios[n])
    if len(ratios) == 1:
        return f"{low} moves by {short(ratios[low])} of its size in an update (median)."
    healthy = sum(BAND[0] <= ratio <= BAND[1] for ratio in ratios.values())
    return (
        f"{healthy:,} of {counted(len(ratios), 'parameter tensor')} move by about a thousandth of "
        f"their size in an update (median over the run): least {low} ({short(ratios[low])}), "
        f"most {high} ({short(ratios[high])})."
    )


def _finite(series: Series) -> list[float]:
    return [value for _, value in series.means(MEANS) if value is not None]
