"""Advice: what a run's losses tell about its learning rate, once they are there.

Four rules, each of which would rather stay silent than be wrong:

- diverged: the last loss is not finite; or it is above the first, and 4 times the lowest.
- stood still: three epochs or more whose losses differ by a ten-millionth at most.
- hardly moved: all updates together, at the sizes that were noted of some, make less than a
  ten-thousandth of a parameter's size, at the median of the parameters.
- crept: a straight fall over five epochs or more, its slope at least 5 times its standard error,
  of a thousandth to a hundredth of the loss in all, and in its second half about as fast.

A loss below a millionth is taken as learned. A run that begins at its optimum goes up and down by
chance, or falls by less, or ever more slowly.
"""

import math
from collections.abc import Iterable, Mapping
from statistics import fmean, median
from typing import Any

Rows = Iterable[Mapping[str, Any]]

DIVERGED = 4.0
LEARNED = 1e-6
STILL = 1e-7
UNMOVED = 1e-4
CREPT = (1e-3, 1e-2)
SURE = 5.0
PACE = 0.8  # of the first half's fall, in the second half


def advice(history_rows: Rows, command: str = "steepest.find_lr(run)") -> str | None:
    """Return a sentence about a loss that diverged or did not move; None if it did neither.

    Args:
        history_rows: the rows of metrics.jsonl, or of `Report.history`, in order; a loss that was
            not finite is None, NaN or infinite.
        command: what finds a learning rate.
    """
    rows = [row for row in history_rows if row.get("kind") in ("step", "epoch") and "loss" in row]
    if not rows:
        return None
    losses = [_number(row["loss"]) for row in rows]
    epochs = [_number(row["loss"]) for row in rows if row["kind"] == "epoch"]
    said = _diverged(losses) or _still(epochs) or _unmoved(rows) or _crept(epochs)
    return said and f"{said}: {command} finds a learning rate"


def _number(loss: float | None) -> float:
    return math.nan if loss is None else float(loss)


def _diverged(losses: list[float]) -> str | None:
    first, last = losses[0], losses[-1]
    if not math.isfinite(last):
        return "the loss diverged, until it was not finite"
    lowest = min(filter(math.isfinite, losses))
    if last > max(first, LEARNED) and last - lowest > (DIVERGED - 1) * abs(lowest):
        return f"the loss diverged, from {lowest:.3g} to {last:.3g}"
    return None


def _still(epochs: list[float]) -> str | None:
    level = abs(epochs[0]) if epochs else 0.0
    still = len(epochs) >= 3 and max(epochs) - min(epochs) <= STILL * level
    if not still or level < LEARNED:
        return None
    return (
        f"the loss stood still at {epochs[0]:.4g} for {len(epochs)} epochs, so that lr is too low, "
        "or no gradient reaches the parameters"
    )


def _unmoved(rows: list[Mapping[str, Any]]) -> str | None:
    noted = [row["ratios"] for row in rows if row.get("ratios")]
    if not noted or abs(_number(rows[-1]["loss"])) < LEARNED:
        return None
    steps, moved = rows[-1]["step"], []
    for name in noted[0]:  # a parameter of zeros has no size, so no ratio
        shares = [ratios[name] for ratios in noted if ratios.get(name) is not None]
        moved.append(fmean(shares) * steps if shares else math.inf)
    if median(moved) >= UNMOVED:
        return None
    return (
        f"the parameters hardly moved, by {median(moved):.0e} of their size in {steps:,} updates, "
        "so that lr is too low"
    )


def _crept(epochs: list[float]) -> str | None:
    n = len(epochs)
    if n < 5 or not all(map(math.isfinite, epochs)) or abs(epochs[0]) < LEARNED:
        return None
    places, mean = [k - (n - 1) / 2 for k in range(n)], fmean(epochs)
    spread = sum(x * x for x in places)
    slope = sum(x * loss for x, loss in zip(places, epochs, strict=True)) / spread
    rest = sum((loss - mean - slope * x) ** 2 for x, loss in zip(places, epochs, strict=True))
    error, fall = math.sqrt(rest / (n - 2) / spread), -slope * (n - 1) / abs(mean)
    slows = epochs[n // 2] - epochs[-1] < PACE * (epochs[0] - epochs[-1 - n // 2])
    if slows or not (CREPT[0] <= fall <= CREPT[1] and -slope > SURE * error):
        return None
    return f"the loss fell by only {fall:.2%} in {n} epochs, as fast at the end as at the start"
