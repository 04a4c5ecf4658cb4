"""Encoding: numbers checked by hand, statistics of the training part alone, notes that say it."""

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from steepest.data.columns import encode, from_time, standardise
from steepest.errors import DataError

# Three rows for training, two for validation.
TRAINING = np.array([True, True, False, True, False])


def encoded(values, dtype=None, max_categories=50):
    return encode(pl.Series("c", values, dtype=dtype, strict=False), TRAINING, max_categories)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 100, 6, -50], [(v - 3) / np.sqrt(14 / 3) for v in (1, 2, 100, 6, -50)]),
        ([0.0, 0.0, 9.0, 3.0, 1.0], [(v - 1) / np.sqrt(2) for v in (0, 0, 9, 3, 1)]),
        ([1, 3, None, 8, None], [(v - 4) / np.sqrt(26 / 3) for v in (1, 3, 3, 8, 3)]),
        ([1.0, np.nan, 5.0, 3.0, None], [-np.sqrt(1.5), 0, 3 * np.sqrt(1.5), np.sqrt(1.5), 0]),
        ([True, False, True, True, False], [1, 0, 1, 1, 0]),
        ([True, False, None, True, None], [1, 0, 1, 1, 1]),
        ([True, False, None, None, None], [1, 0, 0.5, 0.5, 0.5]),
        ([1e300, 2e300, 0, 3e300, 2e300], [-np.sqrt(1.5), 0, -2 * np.sqrt(1.5), np.sqrt(1.5), 0]),
        ([1e-300, 2e-300, 0, 3e-300, 2e-300], [-1.2247449, 0, -2.4494897, 1.2247449, 0]),
        (
            [dt.date(1970, 1, 1), dt.date(1970, 1, 2), None, dt.date(1970, 1, 3), None],
            [-np.sqrt(1.5), 0, 0, np.sqrt(1.5), 0],
        ),
    ],
)
def test_numbers_by_hand(values, expected):
    column = encoded(values)
    assert column.names == ("c",)
    assert column.values.dtype == np.float32
    np.testing.assert_allclose(column.values[:, 0], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt64, pl.Float32, pl.Decimal(10, 2)])
def test_every_type_of_number_is_one(dtype):
    np.testing.assert_array_equal(
        encoded([1, 2, 5, 3, 4], dtype).values, encoded([1, 2, 5, 3, 4], pl.Float64).values
    )


@given(st.lists(st.floats(-1e200, 1e200), min_size=3, max_size=30))
def test_standardised_columns_have_mean_0_and_deviation_1(values):
    array = np.array(values)
    # Where the values differ in their last digits only, float64 itself has lost the answer.
    assume(np.ptp(array) > 1e-6 * np.abs(array).max())
    got, mean, std = standardise("c", array, np.ones(len(array), bool))
    got = got.astype(np.float64)
    assert abs(got.mean()) < 1e-6
    assert abs(got.std() - 1) < 1e-6
    np.testing.assert_allclose(got * std + mean, array, rtol=0, atol=1e-6 * np.abs(array).max())


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Enum(["a", "b", "z"])])
def test_text_becomes_one_hot_in_the_categories_of_the_training_part(dtype):
    column = encoded(["b", "a", "b", "b", "z"], dtype)
    assert column.names == ("c=a", "c=b")
    assert column.values.tolist() == [[0, 1], [1, 0], [0, 1], [0, 1], [0, 0]]
    assert len(column.notes) == 1
    assert (
        "1 validation rows hold categories that the training part lacks (such as 'z')"
        in (column.notes[0])
    )


def test_missing_text_is_a_category_of_its_own():
    column = encoded(["a", None, "a", "a", None])
    assert column.names == ("c=(missing)", "c=a")
    assert column.values.tolist() == [[0, 1], [1, 0], [0, 1], [0, 1], [1, 0]]
    assert column.notes == ("'c': 2 of 5 values are missing, a category of their own",)


def test_filled_numbers_are_told():
    assert encoded([1, None, None, 8, 2]).notes == (
        "'c': 2 of 5 values are missing, filled with 4.5, the median of the training part",
    )


@pytest.mark.parametrize(
    ("value", "expected", "unit"),
    [
        (dt.datetime(1970, 1, 2, 12), 1.5, "days since 1970"),
        (
            dt.datetime(1970, 1, 2, 13, tzinfo=dt.timezone(dt.timedelta(hours=1))),
            1.5,
            "days since 1970",
        ),
        (dt.date(1969, 12, 31), -1, "days since 1970"),
        (dt.timedelta(hours=36), 1.5, "days"),
        (dt.time(13, 30), 13.5, "hours since midnight"),
    ],
)
def test_dates_and_times_become_numbers(value, expected, unit):
    numbers, told = from_time(pl.Series("c", [value, None]))
    assert numbers.to_list() == [expected, None]
    assert told == unit


def test_the_unit_of_a_date_is_told():
    (note,) = encoded([dt.date(2024, 2, day) for day in range(1, 6)]).notes
    assert note == "'c' holds Date: turned into days since 1970"


def test_as_many_categories_as_allowed_are_kept():
    assert encoded(["a", "b", "c", "c", "a"], max_categories=3).names == ("c=a", "c=b", "c=c")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([3, 3, 1, 3, 2], "it has one value only in the training part, 3"),
        ([3, 3, 1, None, 2], "it has one value only in the training part, 3"),
        (["a", "a", "b", "a", "c"], "it has one value only in the training part, 'a'"),
        ([True, True, False, True, False], "it has one value only in the training part, 1"),
        ([None, None, 1, None, 2], "all its values in the training part are missing"),
        ([None, None, None, None, None], "all its values in the training part are missing"),
        ([None, None, "a", None, "b"], "it has one value only in the training part, '(missing)'"),
        (["a", "b", "b", "c", "b"], "it has 3 different texts, more than max_categories=2"),
        ([[1], [2], [3], [4], [5]], "its type List(Int64) is neither number, boolean, text"),
        ([dt.date(2024, 2, 29)] * 5, "it has one value only in the training part, 19782"),
        ([b"a", b"b", b"c", b"d", b"e"], "its type Binary is neither"),
    ],
)
def test_columns_of_no_use_are_left_out_and_it_is_told(values, why):
    column = encoded(values, max_categories=2)
    assert column.names == ()
    assert column.values.shape == (5, 0)
    (note,) = column.notes
    assert note.startswith(f"column 'c' is left out: {why}")


def test_a_column_without_a_name_is_left_out():
    """pandas writes the row number so: in a sorted table it would give the answer away."""
    column = encode(pl.Series("", range(5)), TRAINING, 50)
    assert column.notes == ("column '' is left out: it has no name",)


@pytest.mark.parametrize("value", [float("inf"), -float("inf")])
def test_an_infinite_value_is_refused_with_its_row(value):
    with pytest.raises(DataError, match="column 'c' is infinite in row 3"):
        encoded([1.0, 2.0, value, 4.0, value])


@pytest.mark.parametrize("value", [1e300, 1e30])
def test_a_value_beyond_float32_is_refused_with_its_row(value):
    with pytest.raises(
        DataError, match=r"column 'c' is 1e.30+ in row 3, further from the training"
    ):
        encoded([1e-20, 2e-20, value, 3e-20, 0.0])


VALUES = {
    pl.Float64: st.integers(-(10**6), 10**6).map(lambda n: n / 8),
    pl.Int64: st.integers(-(2**60), 2**60),
    pl.String: st.text(max_size=2),
    pl.Boolean: st.booleans(),
    pl.Date: st.dates(),
}


@given(data=st.data(), dtype=st.sampled_from(list(VALUES)))
def test_the_validation_part_never_moves_the_training_part(data, dtype):
    """Statistics and categories come from the training part, whatever the other part holds."""
    columns = st.lists(st.none() | VALUES[dtype], min_size=5, max_size=5)
    values, others = data.draw(columns), data.draw(columns)
    mixed = [v if t else o for v, o, t in zip(values, others, TRAINING, strict=True)]
    one, two = encoded(values, dtype), encoded(mixed, dtype)
    assert one.names == two.names
    np.testing.assert_array_equal(one.values[TRAINING], two.values[TRAINING])
