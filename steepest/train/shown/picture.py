"""A picture of how the losses of a run went down, and what pictures of losses look like.

It stays beside the loop, not on the floor of reports, because every run leaves one in its folder
and it needs nothing but the rows of the metrics.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steepest.train.files.checkpoint import write_whole

Row = dict[str, Any]
Line = tuple[list[float], list[float]]

INK, FAINT, GRID = "#1b1f24", "#6b7480", "#e4e7eb"
TRAIN, VALIDATION = "#2563a8", "#d9731a"
LOG_RATIO = 20.0  # between the largest and the smallest loss, above which a log scale shows more


def draw_losses(path: Path | str, rows: Iterable[Row], title: str) -> None:
    """Draw the rows of a metrics file: train and validation loss over the updates, as PNG.

    Raises:
        CheckpointError: the picture cannot be written.
    """
    rows = list(rows)
    epochs = [row for row in rows if row.get("kind") == "epoch"]
    steps = _line([row for row in rows if row.get("kind") == "step"], "loss")
    measured = [row for row in rows if row.get("kind") in ("epoch", "validation")]
    train, validation = _middles(_line(epochs, "loss")), _line(measured, "validation_loss")
    figure, axes = new_picture()
    if len(steps[0]) > 2 * len(epochs):  # else they tell nothing that the means do not
        axes.plot(*steps, color=TRAIN, alpha=0.35, linewidth=1, label="train")
    _plot(axes, train, TRAIN, "train, mean of an epoch")
    _plot(axes, validation, VALIDATION, "validation")
    scale(axes, steps[1] + train[1] + validation[1])
    axes.set_xlabel("updates")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    dress(axes, title, _outcome(epochs))
    write_whole(Path(path), lambda temporary: figure.savefig(temporary, format="png"))


def new_picture() -> tuple[Any, Any]:
    """Return a figure of 1200 x 720 pixels and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _line(rows: list[Row], key: str) -> Line:
    """Return the updates and values of the rows that have a finite one."""
    points = [
        (float(row["step"]), float(row[key]))
        for row in rows
        if isinstance(row.get(key), (int, float)) and math.isfinite(row[key])
    ]
    return [step for step, _ in points], [value for _, value in points]


def _middles(line: Line) -> Line:
    """Put the mean of an epoch at its middle, where the loss had about that value."""
    ends, values = line
    starts = [0.0, *ends]
    return [(start + end) / 2 for start, end in zip(starts, ends, strict=False)], values


def _plot(axes: Any, line: Line, color: str, label: str) -> None:
    if line[0]:
        marker = "o" if len(line[0]) <= 30 else ""
        axes.plot(*line, color=color, linewidth=2, marker=marker, markersize=4, label=label)


def scale(axes: Any, losses: list[float]) -> None:
    """Take a log scale where the losses are far apart, with ticks enough to read it."""
    if not losses or min(losses) <= 0 or max(losses) / min(losses) <= LOG_RATIO:
        return
    from matplotlib.ticker import LogLocator, NullFormatter

    wide = max(losses) / min(losses) > 1000
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def dress(axes: Any, title: str, outcome: str, legend: str = "upper right") -> None:
    """Give losses their title, what came of them at its right, a faint grid and a legend."""
    axes.set_title(
        title, loc="left", fontsize=13, fontweight="bold", color=INK, pad=12, parse_math=False
    )
    axes.set_title(outcome, loc="right", fontsize=9, color=FAINT)
    axes.set_ylabel("loss")
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(FAINT)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, length=0, which="both")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.margins(x=0.02)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, labelcolor=INK, fontsize=9, loc=legend)


def _outcome(epochs: list[Row]) -> str:
    if not epochs:
        return ""
    last = epochs[-1]
    name = "validation loss" if "validation_loss" in last else "loss"
    value = last[name.replace(" ", "_")]
    return "" if value is None else f"{name} {value:.4g} after {_epochs(last)}"


def _epochs(row: Row) -> str:
    return "1 epoch" if row["epoch"] == 1 else f"{row['epoch']:,} epochs"
