"""evaluation.json -> predictions against truth and residuals, or a confusion matrix."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from steepest.figures import MINUS, counted, short
from steepest.report.chart import Chart, Key, Reported, Trace, plain, rounded
from steepest.report.kept import EVALUATION
from steepest.report.values import items, number, read_json, text

POINTS = 4000  # in a chart, of all runs together
CLASSES = 100
LABELLED = 20  # classes up to which each cell shows its number


@dataclass(frozen=True)
class Regression:
    """Pairs of truth and prediction on the validation rows, in the target's units."""

    target: list[float]
    prediction: list[float]

    def said(self) -> str:
        """Return how good the predictions are, in a sentence."""
        errors = [p - t for t, p in zip(self.target, self.prediction, strict=True)]
        mean = fmean(self.target)
        spread = sum((t - mean) ** 2 for t in self.target)
        square = sum(e * e for e in errors)
        parts = [
            f"{len(errors):,} validation rows: mean absolute error {short(fmean(map(abs, errors)))}"
        ]
        parts.append(f"root mean square error {short(math.sqrt(square / len(errors)))}")
        if spread > 0:
            parts.append(f"R² {short(1 - square / spread)}")
        return ", ".join(parts) + "."


@dataclass(frozen=True)
class Classification:
    """A confusion matrix: row k counts what rows of class k were taken for."""

    classes: list[str]
    confusion: list[list[int]]

    def accuracy(self) -> float:
        """Return the share of rows that were taken for what they are."""
        right = sum(row[k] for k, row in enumerate(self.confusion))
        return right / max(1, sum(map(sum, self.confusion)))

    def said(self) -> str:
        """Return how good the predictions are and what is mixed up most often."""
        count = sum(map(sum, self.confusion))
        right = f"{short(100 * self.accuracy())} % of {count:,} rows are right."
        wrong = [
            (n, self.classes[truth], self.classes[taken])
            for truth, row in enumerate(self.confusion)
            for taken, n in enumerate(row)
            if n and truth != taken
        ]
        if not wrong:
            return right
        n, truth, taken = max(wrong, key=lambda found: found[0])
        return f"{right} Most often {truth} is taken for {taken} ({counted(n, 'time')})."


Evaluation = Regression | Classification


def read_evaluation(run: Any, faults: list[str]) -> Evaluation | None:
    """Return what evaluation.json of a run folder holds; None where there is none."""
    try:
        found = read_json(run / EVALUATION)
        return _regression(found) if found.get("task") == "regression" else _classification(found)
    except FileNotFoundError:
        return None
    except OSError as error:
        faults.append(f"{EVALUATION} cannot be read ({error.strerror}).")
    except ValueError as error:
        faults.append(f"{EVALUATION} is damaged: it {error}; what it told is left out.")
    return None


def regression_charts(found: Sequence[tuple[Reported, Regression]]) -> list[Chart]:
    """Return predictions against truth, and residuals against predictions."""
    if not found:
        return []
    most = POINTS // len(found)
    seen = [(run, _thinned(e.target, most), _thinned(e.prediction, most)) for run, e in found]
    values = [v for _, target, prediction in seen for v in (*target, *prediction)]
    low, high = min(values), max(values)
    pad = 0.04 * (high - low) or 1.0
    ends = [rounded(low - pad), rounded(high + pad)]
    pairs = [_dots(run, target, prediction) for run, target, prediction in seen]
    residuals = [
        _dots(run, prediction, [p - t for t, p in zip(target, prediction, strict=True)])
        for run, target, prediction in seen
    ]
    alone = found[0][0].alone
    notes = [e.said() if alone else f"{run.label}: {e.said()}" for run, e in found]
    return [
        Chart(
            title="Prediction and truth",
            data=pairs,
            layout={
                "xaxis": {"range": ends, "title": "truth"},
                "yaxis": {"range": ends, "title": "prediction"},
                "shapes": [_line(ends[0], ends[1], ends[0], ends[1])],
            },
            keys=[Key("as true", "var(--faint)", "dot")],
            notes=notes,
            height=0,
        ),
        Chart(
            title="Residuals",
            data=residuals,
            layout={
                "xaxis": {"range": ends, "title": "prediction"},
                "yaxis": {"title": f"prediction {MINUS} truth"},
                "shapes": [_line(ends[0], ends[1], 0, 0)],
            },
            notes=["Even scatter about zero is left when there is nothing more to learn."],
            height=0,
        ),
    ]


def confusion_chart(run: Reported, found: Classification) -> Chart:
    """Return a confusion matrix, coloured by the share of each row."""
    names, count = plain(found.classes, 16), len(found.classes)
    totals = [max(1, sum(row)) for row in found.confusion]
    shares = [
        [rounded(n / total, 3) for n in row]
        for row, total in zip(found.confusion, totals, strict=True)
    ]
    trace: Trace = {
        "run": run.index,
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": shares,
        "customdata": found.confusion,
        "zmin": 0,
        "zmax": 1,
        "xgap": 1,
        "ygap": 1,
        "colorscale": [[0, "var(--empty)"], [1, "var(--full)"]],
        "showscale": False,
        "hovertemplate": "truth %{y}, taken for %{x}<br>"
        "%{customdata:,} rows, %{z:.1%} of the class<extra></extra>",
    }
    if count <= LABELLED:
        trace["text"] = [[f"{n:,}" if n else "" for n in row] for row in found.confusion]
        trace["texttemplate"] = "%{text}"
    axis = {"type": "category", "showgrid": False, "dtick": 1 if count <= 30 else None}
    return Chart(
        title="Confusion" + ("" if run.alone else f", {run.label}"),
        data=[trace],
        layout={
            "xaxis": axis | {"title": "taken for"},
            "yaxis": axis | {"title": "truth", "autorange": "reversed"},
        },
        notes=[found.said()],
        height=0,
    )


def recall_chart(found: Sequence[tuple[Reported, Classification]]) -> Chart | None:
    """Return how much of each class was found, the runs beside each other."""
    first = found[0][1].classes
    if any(e.classes != first for _, e in found) or len(first) > LABELLED * 2:
        return None
    data = [
        {
            "run": run.index,
            "type": "scatter",
            "mode": "markers",
            "name": "" if run.alone else plain([run.label])[0],
            "x": [rounded(row[k] / max(1, sum(row)), 4) for k, row in enumerate(e.confusion)],
            "y": plain(first, 16),
            "marker": {"size": 10, "color": run.validation_colour},
            "hovertemplate": "%{y}: %{x:.1%}",
        }
        for run, e in found
    ]
    return Chart(
        title="Recall of each class",
        data=data,
        layout={
            "xaxis": {"tickformat": ".0%", "title": "share of its rows that are found"},
            "yaxis": {"type": "category", "autorange": "reversed", "dtick": 1},
            "hovermode": "closest",
        },
        height=0,
    )


def _dots(run: Reported, x: Sequence[float], y: Sequence[float]) -> Trace:
    return {
        "run": run.index,
        "type": "scatter",
        "mode": "markers",
        "name": "" if run.alone else plain([run.label])[0],
        "x": [rounded(value) for value in x],
        "y": [rounded(value) for value in y],
        "marker": {"size": 5, "color": run.validation_colour, "opacity": 0.5},
        "hovertemplate": "%{x:.4~g}, %{y:.4~g}",
    }


def _line(x0: Any, x1: Any, y0: Any, y1: Any) -> Trace:
    style = {"color": "var(--faint)", "width": 1, "dash": "dot"}
    return {"type": "line", "x0": x0, "x1": x1, "y0": y0, "y1": y1, "line": style}


def _thinned(values: list[float], most: int) -> list[float]:
    """Return every so-manieth value."""
    return values[:: max(1, -(-len(values) // most))]


def _regression(found: Mapping[str, Any]) -> Regression:
    columns = [_numbers(found.get(name)) for name in ("target", "prediction")]
    if len(columns[0]) != len(columns[1]):
        raise ValueError("has not as many predictions as targets")
    pairs = [(t, p) for t, p in zip(*columns, strict=True) if t is not None and p is not None]
    if not pairs:
        raise ValueError("holds no finite prediction")
    return Regression([t for t, _ in pairs], [p for _, p in pairs])


def _numbers(value: object) -> list[float | None]:
    """Return numbers; a row of one number counts as that number."""
    return [number(v[0] if isinstance(v, list) and len(v) == 1 else v) for v in items(value)]


def _classification(found: Mapping[str, Any]) -> Classification:
    classes = [text(name) for name in items(found.get("classes"))]
    rows = [[number(n) for n in items(row)] for row in items(found.get("confusion"))]
    good = classes and len(rows) == len(classes)
    if not good or any(len(row) != len(classes) or None in row for row in rows):
        raise ValueError("holds no square table of counts, a row and a column for each class")
    return Classification(classes, [[int(n or 0) for n in row] for row in rows])
