"""The target: which task it means, its numbers and classes, and what it may not be."""

import datetime as dt

import numpy as np
import polars as pl
import pytest

from steepest.data.target import encode_target
from steepest.errors import DataError


def target(values, task=None, dtype=None):
    """Encode a target that has each value once in the training and once in the validation part."""
    column = pl.Series("y", [v for v in values for _ in range(2)], dtype=dtype, strict=False)
    return encode_target(column, np.arange(len(column)) % 2 == 0, task)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["b", "a"], ("a", "b")),
        (["1x", "2x", "3x"] * 20, ("1x", "2x", "3x")),
        ([True, False], (False, True)),
        ([0, 1], (0, 1)),
        ([1.0, 0.0], (0, 1)),
        ([-1, 1], (-1, 1)),
        ([5, 70], (5, 70)),
        ([3, 1, 2], (1, 2, 3)),
        (range(10), tuple(range(10))),
    ],
)
def test_values_that_mean_classification(values, classes):
    got = target(values)
    assert got.task == "classification"
    assert got.classes == classes
    assert [type(label) for label in got.classes] == [type(label) for label in classes]
    assert got.values.dtype == np.int64
    assert [got.classes[index] for index in got.values[::2]] == list(values)
    assert (got.mean, got.std) == (0.0, 1.0)
    assert len(got.notes) == 1
    assert "taken as classification" in got.notes[0]


@pytest.mark.parametrize(
    "values", [[3, 4, 5], [0, 1, 3], [0.0, 1.5], range(11), [1e300, 2e300], [1, 2, 4, 8, 16]]
)
def test_values_that_mean_regression(values):
    got = target(values)
    assert got.task == "regression"
    assert got.classes == ()
    assert got.values.dtype == np.float32
    assert got.values.shape == (2 * len(values), 1)
    known = np.asarray(values, float)
    told = got.values[::2, 0].astype(float) * got.std + got.mean
    np.testing.assert_allclose(told, known, rtol=1e-6, atol=1e-6)
    assert len(got.notes) == 1
    assert "taken as regression" in got.notes[0]


@pytest.mark.parametrize(
    ("values", "task"), [([0, 1, 2], "regression"), ([3, 4, 5], "classification")]
)
def test_a_given_task_wins_and_needs_no_note(values, task):
    assert target(values, task).task == task
    assert target(values, task).notes == ()


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["b", "a"])])
def test_polars_categories_are_text(dtype):
    assert target(["a", "b"], dtype=dtype).classes == ("a", "b")


def test_numbers_are_standardised_with_the_training_part_by_hand():
    column = pl.Series("y", [1.0, 2.0, 100.0, 6.0])
    got = encode_target(column, np.array([True, True, False, True]), None)
    deviation = np.sqrt(14 / 3)
    assert got.mean == pytest.approx(3)
    assert got.std == pytest.approx(deviation)
    expected = [-2 / deviation, -1 / deviation, 97 / deviation, 3 / deviation]
    np.testing.assert_allclose(got.values[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "task", "sentence"),
    [
        ([1.5, None, 2], None, "missing in 2 rows, first in row 3: .* remove those rows"),
        ([1.5, float("nan"), 2], None, "missing in 2 rows, first in row 3"),
        (["a", None, "b"], None, "missing in 2 rows, first in row 3"),
        ([True, None, False], "classification", "missing in 2 rows, first in row 3"),
        ([None, None], None, "missing in 4 rows, first in row 1"),
        ([1.5, float("inf"), 2], None, "infinite in row 3"),
        (["a", "b"], "regression", "holds 'a' in row 1: regression predicts numbers"),
        ([True, False], "regression", "holds 'True' in row 1: regression predicts numbers"),
        (["1", "2", "x", "3"], None, "holds numbers, except 'x' in row 5: correct that value"),
        ([7, 7], None, "is 7 in every training row: regression needs values that differ"),
        ([7, 7], "regression", "is 7 in every training row"),
        ([7, 7], "classification", "has one class, 7: classification needs at least two"),
        (["a", "a"], None, "has one class, a"),
        ([True, True], None, "has one class, True"),
        ([1, 2.5], "classification", "is 2.5 in row 3: a class is a text, a boolean or a whole"),
        ([dt.date(2024, 2, 29)], None, "is of type Date: a target holds numbers, text or bool"),
        ([[1], [2]], None, r"is of type List\(Int64\): a target holds"),
    ],
)
def test_an_unfit_target_is_refused_in_one_sentence(values, task, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        target(values, task)
    assert "'y'" in str(caught.value)


def test_a_class_without_a_training_row_is_refused():
    column, training = pl.Series("y", ["a", "b", "a", "c"]), np.array([True, True, True, False])
    with pytest.raises(DataError, match="class c of target 'y' has no row in the training part"):
        encode_target(column, training, None)


def test_a_target_that_is_constant_in_the_training_part_is_refused():
    column, training = pl.Series("y", [1.5, 1.5, 2.5]), np.array([True, True, False])
    with pytest.raises(DataError, match=r"is 1.5 in every training row"):
        encode_target(column, training, None)
