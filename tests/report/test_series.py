"""Curves: exact while they are short, bounded and with every extreme when they are long."""

import pytest

from steepest.report.series import Place, Series, middles

LONG = 100_000


def place(step: float) -> Place:
    return Place(step, 32 * step, step / 1000)


def series(values, limit: int = 50) -> Series:
    made = Series(limit)
    for step, value in enumerate(values):
        made.add(place(step), value)
    return made


def test_a_short_curve_is_kept_as_it_is():
    values = [3.0, None, 1.0, 2.0]
    assert [(p.place.step, p.value) for p in series(values).points()] == list(enumerate(values))


@pytest.mark.parametrize("count", [99, 100, 101, 199, 200, 201, LONG])
def test_a_curve_is_bounded_and_in_order(count):
    points = series(range(count)).points()
    steps = [point.place.step for point in points]
    assert len(points) <= 200
    assert steps == sorted(steps)
    assert (points[0].value, points[-1].value) == (0, count - 1)


@pytest.mark.parametrize("spike", [-1.0, 2.0])
@pytest.mark.parametrize("at", [0, 4321, LONG - 1])
def test_a_spike_of_one_value_is_seen(spike, at):
    values = [1.0] * LONG
    values[at] = spike
    assert (place(at), spike) in series(values).points()


def test_a_running_mean_has_the_mean_of_all_values():
    means = series(range(2**14)).means(16)
    assert len(means) <= 16
    assert sum(point.value for point in means) / len(means) == (2**14 - 1) / 2


def test_values_that_are_not_finite_leave_a_gap_and_no_mean():
    made = series([1.0] * 100 + [None] * 100 + [1.0] * 100)
    assert {point.value for point in made.points()} == {1.0, None}
    assert not series([None, None])


def test_a_mean_since_the_value_before_stands_in_the_middle():
    points = series([5.0, 6.0, 7.0]).points()
    assert [p.place.step for p in middles(points)] == [0.0, 0.5, 1.5]
