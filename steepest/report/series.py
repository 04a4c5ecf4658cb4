"""Curves of bounded length, however long the run was.

A curve is kept in buckets. While it is short a bucket is one value; once there are twice as many
buckets as the bound, neighbours are joined, so that memory stays bounded in one pass over a file.
A bucket keeps its least and its greatest value: a spike of one update in a million is still seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Place(NamedTuple):
    """Where a value was measured: updates done, rows seen, seconds passed (NaN: not known)."""

    step: float
    samples: float
    seconds: float


class Point(NamedTuple):
    """A value at its place; None where it was not a finite number."""

    place: Place
    value: float | None


@dataclass(slots=True)
class Bucket:
    """Values beside each other: the first place, the last, the extremes, sum and count."""

    first: Place
    last: Place
    low: Point
    high: Point
    total: float
    count: int

    @classmethod
    def of(cls, place: Place, value: float | None) -> "Bucket":
        """Return the bucket of one value."""
        point = Point(place, value)
        return cls(place, place, point, point, value or 0.0, int(value is not None))

    def __add__(self, other: "Bucket") -> "Bucket":
        """Return the bucket of both; `other` comes later."""
        points = [p for p in (self.low, self.high, other.low, other.high) if p.value is not None]
        return Bucket(
            self.first,
            other.last,
            min(points, key=_value, default=self.low),
            max(points, key=_value, default=self.low),
            self.total + other.total,
            self.count + other.count,
        )

    def points(self) -> tuple[Point, ...]:
        """Return the extremes in the order in which they came; one point where they are one."""
        if self.low is self.high:
            return (self.low,)
        return (self.low, self.high) if self.low.place <= self.high.place else (self.high, self.low)

    def mean(self) -> Point:
        """Return the mean value, in the middle between the first place and the last."""
        middle = Place(*((a + b) / 2 for a, b in zip(self.first, self.last, strict=True)))
        return Point(middle, self.total / self.count if self.count else None)


class Series:
    """A curve in at most twice `limit` buckets, which fill up one value after the other."""

    def __init__(self, limit: int = 600) -> None:
        self.limit = limit
        self.width = 1  # values in a bucket
        self.buckets: list[Bucket] = []
        self._filled = 0  # values in the last bucket

    def __bool__(self) -> bool:
        return any(bucket.count for bucket in self.buckets)

    def add(self, place: Place, value: float | None) -> None:
        """Append a value; None stands for one that was not finite."""
        one = Bucket.of(place, value)
        if self._filled % self.width:
            self.buckets[-1] += one
        else:
            if len(self.buckets) >= 2 * self.limit:
                self.buckets = joined(self.buckets, 2)
                self.width *= 2
            self.buckets.append(one)
            self._filled = 0
        self._filled += 1

    def points(self) -> list[Point]:
        """Return all values of a short curve, the extremes of each bucket of a long one."""
        return [point for bucket in self.buckets for point in bucket.points()]

    def means(self, most: int) -> list[Point]:
        """Return the curve's running mean in at most so many points."""
        return [bucket.mean() for bucket in joined(self.buckets, -(-len(self.buckets) // most))]


def joined(buckets: Sequence[Bucket], times: int) -> list[Bucket]:
    """Join every so many neighbours into one bucket."""
    return [_sum(buckets[i : i + times]) for i in range(0, len(buckets), max(times, 1))]


def middles(points: Sequence[Point]) -> Iterator[Point]:
    """Put each value, a mean since the one before, in the middle between both places."""
    before = Place(0.0, 0.0, 0.0)
    for place, value in points:
        yield Point(Place(*((a + b) / 2 for a, b in zip(before, place, strict=True))), value)
        before = place


def _sum(buckets: Sequence[Bucket]) -> Bucket:
    whole = buckets[0]
    for bucket in buckets[1:]:
        whole += bucket
    return whole


def _value(point: Point) -> float:
    assert point.value is not None
    return point.value
