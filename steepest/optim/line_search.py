"""A line search: the length of a step that lessens the loss and flattens its slope.

Nocedal & Wright 2006, Algorithms 3.5 and 3.6, https://doi.org/10.1007/978-0-387-40065-5
Differs from Nocedal & Wright, as torch does: the loss must have fallen from the last trial only
from the third trial on; lengths grow at least 1% of the last growth and at most tenfold; a trial
that comes within a tenth of the bracket's width of an end, twice or at the end itself, is moved to
that tenth; the number of trials is bounded, and then the lowest end of the bracket serves.
Differs from torch: where loss or slope is not finite, the point counts as infinitely high and the
bracket is halved.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

DECREASE = 1e-4
"""c1: the share of the decrease promised by the first slope that a step must bring."""
CURVATURE = 0.9
"""c2: the share of the first slope that may be left."""
NARROWEST = 1e-9
"""No element of the parameters differs by more over a bracket that is not searched further."""


@dataclass(frozen=True)
class Point:
    """A point on the line: the step's length, the loss, its slope along the line, its gradient."""

    t: float
    loss: float
    slope: float
    g: Tensor

    def falls_enough(self, start: "Point") -> bool:
        """Tell whether the loss has decreased sufficiently (equation 3.7a)."""
        return self.loss <= start.loss + DECREASE * self.t * start.slope

    def is_flat_enough(self, start: "Point") -> bool:
        """Tell whether the slope is small enough (equation 3.7b)."""
        return abs(self.slope) <= -CURVATURE * start.slope


Evaluate = Callable[[float], Point]


def strong_wolfe(
    evaluate: Evaluate, start: Point, t: float, reach: float, most: int
) -> tuple[Point, int]:
    """Return a point that satisfies the strong Wolfe conditions, and how many were evaluated.

    Args:
        evaluate: gives the point at a length.
        start: the point at 0, where the slope is negative.
        t: the first length to try.
        reach: the largest element of the direction, in absolute value.
        most: how many lengths may be tried after the first.
    """
    ends, trials = _bracket(evaluate, start, t, most)
    return _zoom(evaluate, start, ends, reach, trials, most)


def _bracket(evaluate: Evaluate, start: Point, t: float, most: int) -> tuple[list[Point], int]:
    """Lengthen the step until a good one is passed (Algorithm 3.5).

    Returns:
        Both ends of the bracket, or the good point alone; and the trials after the first.
    """
    before, now = start, evaluate(t)
    for trials in range(most):
        if not now.falls_enough(start) or (trials > 1 and now.loss >= before.loss):
            return [before, now], trials
        if now.is_flat_enough(start):
            return [now], trials
        if now.slope >= 0:
            return [before, now], trials
        t = _cubic(before, now, now.t + 0.01 * (now.t - before.t), 10 * now.t)
        before, now = now, evaluate(t)
    return [start, now], most


def _zoom(
    evaluate: Evaluate, start: Point, ends: list[Point], reach: float, trials: int, most: int
) -> tuple[Point, int]:
    """Narrow a bracket down to a good point (Algorithm 3.6)."""
    stalled = False
    while len(ends) == 2 and trials < most:
        low, high = (0, 1) if ends[0].loss <= ends[1].loss else (1, 0)
        if abs(ends[1].t - ends[0].t) * reach < NARROWEST:
            break
        t, stalled = _inside(ends, stalled)
        now = evaluate(t)
        trials += 1
        if not now.falls_enough(start) or now.loss >= ends[low].loss:
            ends[high] = now
            continue
        if now.is_flat_enough(start):
            ends = [now]
            continue
        if now.slope * (ends[high].t - ends[low].t) >= 0:
            ends[high] = ends[low]
        ends[low] = now
    return min(ends, key=lambda end: end.loss), trials + 1


def _inside(ends: list[Point], stalled: bool) -> tuple[float, bool]:
    """Return the next length to try inside a bracket, and whether it was close to an end."""
    left, right = sorted(end.t for end in ends)
    t = _cubic(ends[0], ends[1], left, right)
    margin = 0.1 * (right - left)
    if min(right - t, t - left) >= margin:
        return t, False
    if not stalled and left < t < right:
        return t, True
    return (right - margin if right - t < t - left else left + margin), False


def _cubic(a: Point, b: Point, least: float, most: float) -> float:
    """Return the minimum of the cubic through two points and their slopes (equation 3.59).

    It is bounded by `least` and `most`, and lies midway where there is no minimum.
    """
    midway = (least + most) / 2
    a, b = (a, b) if a.t <= b.t else (b, a)
    if not math.isfinite(a.loss + b.loss):
        return midway
    d1 = a.slope + b.slope - _divided(3 * (a.loss - b.loss), a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if not square >= 0:
        return midway
    d2 = math.sqrt(square)
    t = b.t - (b.t - a.t) * _divided(b.slope + d2 - d1, b.slope - a.slope + 2 * d2)
    return midway if math.isnan(t) else min(max(t, least), most)


def _divided(a: float, b: float) -> float:
    """Return a / b as tensors divide: infinite or NaN where b is 0."""
    return a / b if b else a * math.copysign(math.inf, b)
