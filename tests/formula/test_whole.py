"""Words of a whole tensor, called as a formula does: on numbers and on tensors."""

import doctest
import math
import threading

import pytest
import torch

from steepest.formula import (
    column_mean,
    columns,
    epsilon,
    mean,
    norm,
    orthogonalize,
    rank,
    row_mean,
    rows,
    total,
    whole,
)
from steepest.formula.whole import totals

NUMBERS = [(norm, 2.0), (mean, -2.0), (total, -2.0), (row_mean, -2.0), (column_mean, -2.0)]


@pytest.mark.parametrize(("word", "expected"), NUMBERS, ids=lambda x: getattr(x, "__name__", x))
def test_a_number_is_a_tensor_of_one(word, expected):
    assert word(-2.0) == expected
    assert float(word(torch.full((1, 1), -2.0))) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_one_number_in_the_tensors_dtype(dtype):
    x = torch.tensor([[3.0, 0.0], [0.0, -4.0]], dtype=dtype)
    for word, expected in ((norm, 5.0), (mean, -0.25)):
        assert word(x).dtype is dtype
        assert word(x).shape == ()
        assert float(word(x)) == expected
    assert total(x) == -1.0
    assert type(total(x)) is float


def test_sums_are_wider_than_the_tensor():
    assert float(norm(torch.full((4,), 1e25))) == pytest.approx(2e25)
    assert float(norm(torch.full((4,), 300.0, dtype=torch.float16))) == 600.0
    assert float(mean(torch.cat([torch.full((1,), 2.0**24), torch.ones(2**10)]))) == pytest.approx(
        (2**24 + 2**10) / (1 + 2**10), rel=1e-7
    )


def test_empty_tensors():
    assert float(norm(torch.zeros(0))) == 0.0
    assert math.isnan(float(mean(torch.zeros(0))))
    assert total(torch.zeros(0)) == 0.0


def test_rows_and_columns_keep_their_dimensions():
    x = torch.arange(24.0).reshape(2, 3, 4)
    assert row_mean(x).shape == (2, 3, 1)
    assert column_mean(x).shape == (2, 1, 4)
    assert torch.equal(column_mean(row_mean(x)), x.mean((-1, -2), keepdim=True))


def test_facts():
    facts = [
        (rank(t), rows(t), columns(t)) for t in map(torch.zeros, [(), (5,), (2, 3), (2, 3, 4)])
    ]
    assert facts == [(0, 1, 1), (1, 5, 5), (2, 2, 3), (3, 2, 4)]
    assert (rank(0.5), rows(0.5), columns(0.5)) == (0, 1, 1)
    assert epsilon(torch.zeros(1)) == 2**-23
    assert epsilon(0.5) == epsilon(torch.zeros(1, dtype=torch.float64)) == 2**-52


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5), (3, 4, 7)])
def test_orthogonalized_singular_values_are_about_one(shape):
    made = orthogonalize(100 * torch.randn(shape))
    assert made.shape == shape
    assert made.dtype is torch.float32
    values = torch.linalg.svdvals(made)
    assert (values > 0.3).all()
    assert (values < 1.4).all()


def test_a_total_is_answered_by_whoever_adds_it_up():
    seen = []
    with totals(lambda x: seen.append(x) or 42.0):
        assert total(3.0) == 42.0
        with totals(lambda x: 7.0):
            assert total(3.0) == 7.0
        assert total(4.0) == 42.0
    assert seen == [3.0, 4.0]
    assert total(3.0) == 3.0


def test_the_examples_in_the_docstring():
    result = doctest.testmod(whole)
    assert result.attempted >= 3
    assert result.failed == 0


def test_totals_of_two_threads_stay_apart():
    """Another training waits within its total while this one asks for its own."""
    inside, done = threading.Event(), threading.Event()

    def wait(x):
        inside.set()
        done.wait(10)
        return 0.0

    def other():
        with totals(wait):
            total(torch.ones(2))

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(60)
    try:
        assert total(torch.ones(3)) == 3.0
    finally:
        done.set()
        thread.join()
