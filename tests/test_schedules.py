"""Schedules: their values, that they are values, what they refuse, and the page about them."""

import doctest
import math
import pickle
import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler as torchs

from steepest import schedules
from steepest.errors import HyperparameterError
from steepest.schedules import (
    Schedule,
    constant,
    cosine,
    curves,
    exponential,
    join,
    linear,
    multi_step,
    polynomial,
    restarts,
    step_decay,
    warmup,
)

PAGE = Path(__file__).parents[1] / "docs" / "schedules.md"
third = pytest.approx(1 / 3, rel=1e-15)
tenths = pytest.approx(0.3, rel=1e-15)

# the schedule, and its multipliers at some steps, worked out by hand
VALUES = [
    (constant(), {0: 1, 1: 1, 10**9: 1}),
    (constant(2), {0: 2, 7: 2}),
    (step_decay(3, 0.5), {0: 1, 2: 1, 3: 0.5, 5: 0.5, 6: 0.25}),
    (step_decay(1, 0), {0: 1, 1: 0, 2: 0}),
    (multi_step([4, 2, 4], 0.5), {0: 1, 1: 1, 2: 0.5, 3: 0.5, 4: 0.125, 99: 0.125}),
    (multi_step([0], 0.5), {0: 0.5, 1: 0.5}),
    (multi_step([], 0.5), {0: 1, 99: 1}),
    (exponential(0.5), {0: 1, 1: 0.5, 10: 2**-10}),
    (exponential(2), {0: 1, 10: 1024}),
    (linear(total=4), {0: 1, 1: 0.75, 3: 0.25, 4: 0, 5: 0}),
    (linear(1 / 3, total=3, end=1.0), {0: third, 3: 1, 4: 1}),
    (linear(0, total=4, end=2), {0: 0, 1: 0.5, 4: 2, 9: 2}),
    (linear(2, total=4, warmup=1), {0: 1, 1: 2, 2: pytest.approx(4 / 3), 4: 0, 5: 0}),
    (linear(total=2.5), {0: 1, 1: pytest.approx(0.6), 2: pytest.approx(0.2), 3: 0}),
    (cosine(total=4), {0: 1, 2: pytest.approx(0.5), 4: 0, 5: 0, 8: 0}),
    (cosine(total=3, end=0.25), {0: 1, 1: pytest.approx(0.8125), 3: 0.25, 4: 0.25}),
    (cosine(0.5, total=8, warmup=4, end=0.1), {0: 0.1, 3: 0.4, 4: 0.5, 6: tenths, 8: 0.1, 9: 0.1}),
    (cosine(0.04, total=2, end=0.4), {0: 0.04, 1: pytest.approx(0.22), 2: 0.4, 3: 0.4}),
    (polynomial(total=4, power=2), {0: 1, 1: 0.5625, 4: 0, 5: 0}),
    (polynomial(total=4, power=0), {0: 1, 1: 1, 4: 1, 5: 1}),
    (restarts(2.0, first=2, end=1.0), {0: 2, 1: 1.5, 2: 2, 3: 1.5, 100: 2}),
    (restarts(first=2, growth=3), {0: 1, 2: 1, 4: 0.75, 5: 0.5, 8: 1, 14: 0.75, 26: 1}),
    (polynomial(total=2, end=0.5), {0: 1, 1: 0.75, 2: 0.5, 3: 0.5}),
    (polynomial(4, total=5, warmup=1, power=2), {0: 2, 1: 4, 3: 1, 5: 0}),
    (warmup(4), {0: 0.2, 1: 0.4, 3: 0.8, 4: 1, 5: 1}),
    (warmup(0), {0: 1, 1: 1}),
    (0.5 * exponential(0.5), {0: 0.5, 1: 0.25, 3: 0.0625}),
    (constant(3) * 2, {0: 6, 9: 6}),
    (0 * constant(3), {0: 0}),
    (0.1 * warmup(1) * multi_step([2], 0.5), {0: 0.05, 1: 0.1, 2: 0.05}),
    (2 * (3 * linear(total=2)) * (5 * step_decay(1, 0.5)), {0: 30, 1: 7.5, 2: 0}),
    (join([constant(0.1)], []), {0: 0.1, 9: 0.1}),
    (
        join([constant(3), linear(total=2), exponential(2)], [1, 4]),
        {0: 3, 1: 1, 2: 0.5, 3: 0, 4: 1, 5: 2},
    ),
]
ALL = [schedule for schedule, _ in VALUES]


@pytest.mark.parametrize(("schedule", "values"), VALUES, ids=repr)
def test_its_multipliers(schedule, values):
    assert {step: schedule(step) for step in values} == values


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_a_schedule_is_a_value(schedule):
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert eval(repr(schedule)) == schedule
    assert hash(eval(repr(schedule))) == hash(schedule)
    assert [other for other in ALL if other == schedule] == [schedule]
    with pytest.raises(FrozenInstanceError):
        setattr(schedule, next(iter(vars(schedule))), 1)


def test_the_public_names_are_the_schedules():
    kinds = {type(s).__name__ for s in ALL} - {"product"}  # a product is written with *
    assert kinds | {"Schedule"} == set(schedules.__all__)


def test_a_product_is_one_value_however_it_is_written():
    rise, fall = warmup(3), exponential(0.5)
    assert 2 * (3 * rise) == 3 * rise * 2 == 6 * rise != 6 * fall
    assert (2 * rise) * (3 * fall) == 6 * (rise * fall)
    assert 1 * rise == rise * 1.0 == rise
    assert repr(2 * rise * fall) == "2 * warmup(steps=3) * exponential(gamma=0.5)"
    assert repr(rise * fall) == "warmup(steps=3) * exponential(gamma=0.5)"


@pytest.mark.parametrize("other", [torch.tensor(2.0), "2", None, abs], ids=repr)
def test_only_numbers_and_schedules_multiply(other):
    for multiply in (lambda: other * warmup(3), lambda: warmup(3) * other):
        with pytest.raises(TypeError, match=r"unsupported operand|can't multiply"):
            multiply()


def test_a_schedule_of_ones_own_multiplies_too():
    class Halves(Schedule):
        def __call__(self, step):
            return 0.5**step

    assert (2 * Halves() * constant(3))(1) == 3


@pytest.mark.parametrize("path", [linear, cosine, polynomial])
def test_a_warmup_within_the_total_is_a_warmup_before_a_shorter_path(path):
    parts = [0.3 * warmup(5), path(0.3, total=15, end=0.1)]
    whole, joined = path(0.3, total=20, warmup=5, end=0.1), join(parts, [5])
    assert [whole(k) for k in range(25)] == pytest.approx([joined(k) for k in range(25)], 1e-15)


@pytest.mark.parametrize("number", ["3", None, math.nan, math.inf, -1, 1j, [1]], ids=repr)
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (constant, "constant: value"),
        (step_decay, "step_decay: step_size"),
        (lambda x: step_decay(3, x), "step_decay: gamma"),
        (lambda x: multi_step([x]), "multi_step: a milestone"),
        (lambda x: multi_step([3], x), "multi_step: gamma"),
        (exponential, "exponential: gamma"),
        (lambda x: linear(total=x), "linear: total"),
        (lambda x: linear(x, total=3), "linear: start"),
        (lambda x: linear(total=3, end=x), "linear: end"),
        (lambda x: linear(total=3, warmup=x), "linear: warmup"),
        (lambda x: cosine(x, total=3), "cosine: start"),
        (lambda x: polynomial(total=3, power=x), "polynomial: power"),
        (lambda x: restarts(first=x), "restarts: first"),
        (lambda x: restarts(first=2, growth=x), "restarts: growth"),
        (warmup, "warmup: steps"),
        (lambda x: join([constant(), constant()], [x]), "join: a milestone"),
    ],
    ids=lambda row: row if isinstance(row, str) else "",
)
def test_a_bad_number_is_refused_in_one_sentence(make, what, number):
    with pytest.raises(HyperparameterError, match=rf"^{what} must be a finite .*, got .*: give "):
        make(number)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: step_decay(0), "step_size must be a finite whole number above 0, got 0"),
        (lambda: step_decay(2.5), "step_size must be a finite whole number above 0, got 2.5"),
        (lambda: multi_step([1.5]), "a milestone must be a finite whole number"),
        (lambda: linear(total=0), "total must be a finite number above 0, got 0"),
        (lambda: warmup(1.5), "steps must be a finite whole number of at least 0, got 1.5"),
        (lambda: cosine(total=9, warmup=2.5), "warmup must be a finite whole number of at least 0"),
        (lambda: cosine(total=9, warmup=9), "cosine: .* got warmup=9 and total=9: give"),
        (lambda: linear(total=9, warmup=10), "linear: .* got warmup=10 and total=9: give"),
        (lambda: -1 * constant(), "a schedule's factor must be a finite number .* got -1: give"),
        (lambda: constant() * math.nan, "a schedule's factor must be a finite number .* got nan"),
        (lambda: 1e200 * (1e200 * constant()), "product: factor must be a finite .* got inf"),
        (lambda: join([1], []), "must be a function of the step, got 1"),
        (lambda: join([], []), r"one fewer than the schedules, got \[\] for 0"),
        (lambda: join([constant()], [1]), r"got \[1\] for 1 schedules"),
        (lambda: join([constant()] * 3, [2, 2]), r"must rise .*, got \[2, 2\]"),
        (lambda: join([constant()] * 3, [3, 2]), r"must rise .*, got \[3, 2\]"),
        (lambda: join([constant()] * 2, [0]), r"must rise from above 0 .*, got \[0\]"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(HyperparameterError, match=message):
        make()


def test_numbers_become_plain_and_iterables_tuples():
    np = pytest.importorskip("numpy")
    schedule = multi_step((m for m in [np.int64(3), 2.0]), gamma=np.float64(0.5))
    assert repr(schedule) == "multi_step(milestones=(2, 3), gamma=0.5)"
    assert [type(m) for m in schedule.milestones] == [int, int]
    assert type(schedule.gamma) is float
    joined = join((s for s in [constant(), constant()]), (m for m in [np.int64(3)]))
    assert (len(joined.schedules), joined.milestones) == (2, (3,))
    for number in (np.float64(2), np.float32(2), np.int64(2)):
        assert repr(number * warmup(3)) in ("2.0 * warmup(steps=3)", "2 * warmup(steps=3)")
        assert number * warmup(3) == warmup(3) * number == 2 * warmup(3)


steps = st.integers(1, 10**6)
factors = st.floats(0, 10)


@given(steps, factors, factors, st.data())
def test_a_line_stays_between_its_ends_and_meets_them(length, start, end, data):
    schedule = linear(start, total=length, end=end)
    low, high = min(start, end), max(start, end)
    inside = schedule(data.draw(st.integers(0, 2 * length)))
    assert low * (1 - 1e-15) <= inside <= high * (1 + 1e-15)
    assert (schedule(0), schedule(length), schedule(length + 1)) == (start, end, end)


@given(
    st.one_of(
        st.builds(cosine, total=steps, end=st.floats(0, 1)),
        st.builds(polynomial, total=steps, power=st.floats(0.1, 5), end=st.floats(0, 1)),
    ),
    st.data(),
)
def test_a_fall_never_rises_and_meets_its_ends(schedule, data):
    step = data.draw(st.integers(0, schedule.total))
    assert schedule(step) >= schedule(step + 1) - 1e-15
    assert (schedule(0), schedule(schedule.total)) == (1.0, schedule.end)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 60))
def test_join_hands_over_at_its_milestones(first, second, step):
    parts = [linear(total=5, end=2), exponential(0.9), constant(7)]
    ends = [first, first + second]
    if step < ends[0]:
        expected = parts[0](step)
    elif step < ends[1]:
        expected = parts[1](step - ends[0])
    else:
        expected = 7
    assert join(parts, ends)(step) == expected


def torch_sequence(make_parts, milestones, epochs):
    """Return the multipliers of torch's SequentialLR over torch's own schedulers."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torchs.SequentialLR(optimizer, make_parts(optimizer), milestones)
    lrs = []
    for _ in range(epochs):
        lrs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return lrs


@pytest.mark.parametrize(
    ("schedule", "make_parts", "milestones"),
    [
        (
            join([linear(0.1, total=10, end=1.0), cosine(total=60)], [10]),
            lambda o: [torchs.LinearLR(o, 0.1, 1.0, 10), torchs.CosineAnnealingLR(o, 60)],
            [10],
        ),
        (
            join([exponential(0.9), step_decay(3, 0.5), polynomial(total=40, power=2)], [20, 30]),
            lambda o: [
                torchs.ExponentialLR(o, 0.9),
                torchs.StepLR(o, 3, 0.5),
                torchs.PolynomialLR(o, 40, 2),
            ],
            [20, 30],
        ),
    ],
    ids=["two", "three"],
)
def test_join_follows_torchs_sequence(schedule, make_parts, milestones):
    expected = torch_sequence(make_parts, milestones, epochs=70)
    assert [schedule(step) for step in range(70)] == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_the_examples_of_the_docstrings():
    assert doctest.testmod(curves, raise_on_error=True).attempted >= 9


def test_the_examples_of_the_page():
    blocks = re.findall(r"```pycon\n(.*?)```", PAGE.read_text(), re.DOTALL)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, PAGE.name, str(PAGE), 0)
    doctest.DebugRunner().run(test)
    assert len(test.examples) > 10
