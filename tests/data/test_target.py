"""The target: which task it means, its numbers and classes, and what it may not be."""

import datetime as dt

import numpy as np
import polars as pl
import pytest

from steepest.data.target import fit_target
from steepest.errors import DataError


def target(values, task=None, dtype=None):
    """Fit a target that has each value once in the training and once in the validation part.

    Returns the target, its numbers, and the notes.
    """
    column = pl.Series("y", [v for v in values for _ in range(2)], dtype=dtype, strict=False)
    found, notes = fit_target(column, np.arange(len(column)) % 2 == 0, task)
    return found, found.encode(column), notes


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
    got, numbers, notes = target(values)
    assert got.task == "classification"
    assert got.classes == classes
    assert [type(label) for label in got.classes] == [type(label) for label in classes]
    assert numbers.dtype == np.int64
    assert [got.classes[index] for index in numbers[::2]] == list(values)
    assert (got.mean, got.std) == (0.0, 1.0)
    assert len(notes) == 1
    assert "taken as classification" in notes[0]


@pytest.mark.parametrize(
    "values", [[3, 4, 5], [0, 1, 3], [0.0, 1.5], range(11), [1e300, 2e300], [1, 2, 4, 8, 16]]
)
def test_values_that_mean_regression(values):
    got, numbers, notes = target(values)
    assert got.task == "regression"
    assert got.classes == ()
    assert numbers.dtype == np.float32
    assert numbers.shape == (2 * len(values), 1)
    known = np.asarray(values, float)
    told = numbers[::2, 0].astype(float) * got.std + got.mean
    np.testing.assert_allclose(told, known, rtol=1e-6, atol=1e-6)
    assert len(notes) == 1
    assert "taken as regression" in notes[0]


@pytest.mark.parametrize(
    ("values", "task"), [([0, 1, 2], "regression"), ([3, 4, 5], "classification")]
)
def test_a_given_task_wins_and_needs_no_note(values, task):
    got, _, notes = target(values, task)
    assert got.task == task
    assert notes == ()


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["b", "a"])])
def test_polars_categories_are_text(dtype):
    assert target(["a", "b"], dtype=dtype)[0].classes == ("a", "b")


def test_numbers_are_standardised_with_the_training_part_by_hand():
    column = pl.Series("y", [1.0, 2.0, 100.0, 6.0])
    got, _ = fit_target(column, np.array([True, True, False, True]), None)
    deviation = np.sqrt(14 / 3)
    assert got.mean == pytest.approx(3)
    assert got.std == pytest.approx(deviation)
    expected = [-2 / deviation, -1 / deviation, 97 / deviation, 3 / deviation]
    np.testing.assert_allclose(got.encode(column)[:, 0], expected, rtol=1e-6)


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
        (["1.234,5", "2", "3"], None, "holds numbers with commas, such as '1.234,5', that may set"),
        (["3,5", "2", "3"], "regression", "holds numbers with commas, such as '3,5'"),
    ],
)
def test_an_unfit_target_is_refused_in_one_sentence(values, task, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        target(values, task)
    assert "'y'" in str(caught.value)


def test_a_class_without_a_training_row_is_refused():
    column, training = pl.Series("y", ["a", "b", "a", "c"]), np.array([True, True, True, False])
    with pytest.raises(DataError, match="class c of target 'y' has no row in the training part"):
        fit_target(column, training, None)


def test_a_target_that_is_constant_in_the_training_part_is_refused():
    column, training = pl.Series("y", [1.5, 1.5, 2.5]), np.array([True, True, False])
    with pytest.raises(DataError, match=r"is 1.5 in every training row"):
        fit_target(column, training, None)


def test_commas_between_thousands_are_read():
    values = ["1,234.5", "12", "1,000,000"]
    got, numbers, _ = target(values)
    assert got.task == "regression"
    assert got.grouped
    told = numbers[::2, 0].astype(float) * got.std + got.mean
    np.testing.assert_allclose(told, [1234.5, 12, 1e6], rtol=1e-5, atol=1)


@pytest.mark.parametrize(
    ("values", "new", "expected"),
    [
        (["a", "b", "c"], ["c", "a"], [2, 0]),
        ([True, False], [False, True], [0, 1]),
        ([1, 2, 3], ["3", "1"], [2, 0]),
        ([5, 70], [70.0, 5.0], [1, 0]),
    ],
)
def test_new_rows_have_the_classes_of_the_fit(values, new, expected):
    assert target(values)[0].encode(pl.Series("y", new)).tolist() == expected


@pytest.mark.parametrize(
    ("values", "new", "sentence"),
    [
        (["a", "b"], ["a", "x"], "target 'y' is x in row 9: its classes are a, b"),
        ([1, 2], [1, 3], "target 'y' is 3.0 in row 9: its classes are 1, 2"),
        ([1, 2.5], [1.0, None], "missing in 1 row, first in row 9"),
        ([1, 2.5], ["1", "x"], "holds 'x' in row 9: regression predicts numbers"),
        ([1, 2.5], [1, 1e39], "'y' is 1e\\+39 in row 9, further from the training part"),
    ],
)
def test_new_rows_that_do_not_fit_are_refused(values, new, sentence):
    with pytest.raises(DataError, match=sentence):
        target(values)[0].encode(pl.Series("y", new, strict=False), first_row=7)
