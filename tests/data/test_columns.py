"""Encoding: numbers checked by hand, statistics of the training part alone, notes that say it."""

import datetime as dt
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from steepest.data.columns import Column, encode, fit_column, mean_and_std, standardised, unit_of
from steepest.data.notices import Notices
from steepest.errors import DataError

# Three rows for training, two for validation.
TRAINING = np.array([True, True, False, True, False])


def fitted(values, dtype=None, max_categories=50, asked=None):
    series = pl.Series("c", values, dtype=dtype, strict=False)
    return series, fit_column(series, TRAINING, max_categories, asked)


def encoded(values, dtype=None, **options):
    """Return the column's numbers (5, features), and the notices."""
    series, column = fitted(values, dtype, **options)
    out, notices = np.zeros((5, len(column.features)), np.float32), Notices()
    if column.features:
        encode(column, series, out, notices)
    return out, notices


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
    numbers, _ = encoded(values)
    np.testing.assert_allclose(numbers[:, 0], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt64, pl.Float32, pl.Decimal(10, 2)])
def test_every_type_of_number_is_one(dtype):
    np.testing.assert_array_equal(
        encoded([1, 2, 5, 3, 4], dtype)[0], encoded([1, 2, 5, 3, 4], pl.Float64)[0]
    )


@given(st.lists(st.floats(-1e200, 1e200), min_size=3, max_size=30))
def test_standardised_columns_have_mean_0_and_deviation_1(values):
    array = np.array(values)
    # Where the values differ in their last digits only, float64 itself has lost the answer.
    assume(np.ptp(array) > 1e-6 * np.abs(array).max())
    mean, std = mean_and_std(array.copy())
    got = standardised("c", array, mean, std)
    assert got.dtype == np.float32
    got = got.astype(np.float64)
    assert abs(got.mean()) < 1e-6
    assert abs(got.std() - 1) < 1e-6
    np.testing.assert_allclose(got * std + mean, array, rtol=0, atol=1e-6 * np.abs(array).max())


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Enum(["a", "b", "z"])])
def test_text_becomes_one_hot_in_the_categories_of_the_training_part(dtype):
    values = ["b", "a", "b", "b", "z"]
    numbers, notices = encoded(values, dtype)
    assert fitted(values, dtype)[1].features == ("c=a", "c=b")
    assert numbers.tolist() == [[0, 1], [1, 0], [0, 1], [0, 1], [0, 0]]
    assert notices.sentences("validation row") == [
        "'c': 1 validation row holds categories that the training part lacks (such as 'z'), all "
        "zeros there"
    ]


def test_missing_text_is_a_category_of_its_own():
    numbers, notices = encoded(["a", None, "a", "a", None])
    _, column = fitted(["a", None, "a", "a", None])
    assert column.features == ("c=(missing)", "c=a")
    assert column.missing == 2
    assert numbers.tolist() == [[0, 1], [1, 0], [0, 1], [0, 1], [1, 0]]
    assert notices == Notices()


def test_filled_numbers_are_counted():
    values = [1, None, None, 8, 2]
    assert encoded(values)[1].filled == {"c": 2}
    assert fitted(values)[1].fill == 4.5


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
    column = Column(name="c", kind="", role="date", unit=unit)
    assert column.numbers(pl.Series("c", [value, None])).to_list() == [expected, None]
    assert unit_of(pl.Series([value])) == unit


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_a_moment_is_the_same_in_every_unit(unit):
    moment = pl.Series("c", [dt.datetime(1970, 1, 2, 12), None], dtype=pl.Datetime(unit))
    column = Column(name="c", kind="", role="date", unit="days since 1970")
    assert column.numbers(moment).to_list() == [1.5, None]
    duration = pl.Series("c", [dt.timedelta(hours=36)], dtype=pl.Duration(unit))
    assert replace(column, unit="days").numbers(duration).to_list() == [1.5]


def test_as_many_categories_as_allowed_are_kept():
    _, column = fitted(["a", "b", "c", "c", "a"], max_categories=3)
    assert column.features == ("c=a", "c=b", "c=c")


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
    _, column = fitted(values, max_categories=2)
    assert column.features == ()
    assert column.left_out.startswith(why)


def test_a_column_without_a_name_is_left_out():
    """pandas writes the row number so: in a sorted table it would give the answer away."""
    column = fit_column(pl.Series("", range(5)), TRAINING, 50)
    assert column.left_out == "it has no name"


@pytest.mark.parametrize(
    ("values", "asked", "role", "expected"),
    [
        ([1, 2, 2, 1, 3], "category", "category", [[1, 0], [0, 1], [0, 1], [1, 0], [0, 0]]),
        ([1.0, None, 2.0, 2.0, 1.0], "category", "category", None),
        ([True, False, True, True, None], "numeric", "numeric", None),
        (["1", "2", "x", "3", None], "numeric", "numeric", None),
        (["1,234.5", "12", "1", "2", None], None, "numeric", None),
        (["3,5", "2", "1", "2", None], "category", "category", None),
    ],
)
def test_roles_may_be_asked_for(values, asked, role, expected):
    _, column = fitted(values, asked=asked)
    assert column.role == role
    assert not column.left_out
    if expected:
        assert encoded(values, asked=asked)[0].tolist() == expected


def test_whole_numbers_are_the_same_categories_whatever_their_type():
    _, column = fitted([1.0, None, 2.0, 2.0, 1.0], asked="category")
    assert column.categories == ("(missing)", "1", "2")
    for same in (pl.Series("c", [1, 2]), pl.Series("c", ["1", "2"]), pl.Series("c", [1.0, 2.0])):
        out = np.zeros((2, 3), np.float32)
        encode(column, same, out, Notices())
        assert out.tolist() == [[0, 1, 0], [0, 0, 1]]


def test_a_category_is_the_same_whatever_is_beside_it():
    _, column = fitted([1.0, 1.5, 2.0, 2.0, float("nan")], asked="category")
    assert column.categories == ("1", "1.5", "2")
    for values in ([1.0, 1.5], [1.0, 2.0], [1.0, None]):
        out = np.zeros((2, 3), np.float32)
        encode(column, pl.Series("c", values), out, Notices())
        assert out[0].tolist() == [1, 0, 0]


def test_what_is_no_number_counts_as_missing_and_is_told():
    numbers, notices = encoded(["1", "2", "x", "3", None], asked="numeric")
    np.testing.assert_allclose(numbers[:, 0], [-np.sqrt(1.5), 0, 0, np.sqrt(1.5), 0], atol=1e-7)
    assert notices.sentences() == [
        "'c': 1 row holds no value that the model knows (such as 'x'), taken as missing"
    ]


def test_commas_between_thousands_are_read():
    _, column = fitted(["1,234.5", "12", "1", "2", None])
    assert column.numbers(pl.Series(["1,234.5", "-1,234,567", "5"])).to_list() == [
        1234.5,
        -1234567.0,
        5.0,
    ]


@pytest.mark.parametrize(
    ("values", "asked", "sentence"),
    [
        (["1.234,5", "2", "3", "4", "5"], None, r"commas, such as '1.234,5', that may set off"),
        (["1,234", "2", "3", "4", "5"], None, "commas, such as '1,234', that may set off"),
        (["3,5", "2", "3", "4", "5"], "numeric", "commas, such as '3,5', that may set off"),
        (["a", "b", "c", "d", "e"], "category", "is no category: it has 3 different texts"),
        (["a", "b", "c", "d", "e"], "numeric", "cannot be numeric: it holds no such value"),
        ([dt.date(2024, 2, d) for d in range(1, 6)], "numeric", "cannot be numeric"),
    ],
)
def test_a_role_that_a_column_cannot_have_is_refused(values, asked, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        fitted(values, max_categories=2, asked=asked)
    assert "'c'" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "new", "expected"),
    [
        ([1, 3, 2, 5, 4], ["3", "x"], [0, 0]),
        ([1, 3, 2, 5, 4], [True, None], [-np.sqrt(1.5), 0]),
        ([1.5, 4.5, 2, 7.5, 4], [None, 9.0], [0, 1.5 * np.sqrt(1.5)]),
        ([True, False, True, True, False], [0, 1], [0, 1]),
        ([True, False, True, True, False], ["TRUE", "no"], [1, 1]),
        ([True, False, True, True, False], [0.5, 0.0], [1, 0]),
        ([dt.date(1970, 1, d) for d in (1, 2, 9, 3, 9)], ["1970-01-02", "x"], [0, 0]),
        (
            [dt.date(1970, 1, d) for d in (1, 2, 9, 3, 9)],
            [dt.datetime(1970, 1, 3), None],
            [np.sqrt(1.5), 0],
        ),
        ([1, 3, 2, 5, 4], [None, None], [0, 0]),
    ],
)
def test_new_values_of_other_types_are_encoded_as_those_of_the_fit(values, new, expected):
    _, column = fitted(values)
    out = np.zeros((2, 1), np.float32)
    encode(column, pl.Series("c", new, strict=False), out, Notices())
    np.testing.assert_allclose(out[:, 0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("chunks", "refused"),
    [
        ([["x", "y"]], True),
        ([["x"], ["y"]], True),
        ([["x", None], [None, "y"]], True),
        ([["x", "y"], ["3"]], False),
        ([["x"]], False),
        ([[None, None]], False),
    ],
)
def test_a_column_of_another_kind_is_refused_in_whatever_chunks(chunks, refused):
    _, column = fitted([1, 3, 2, 5, 4])
    total = Notices()
    for values in chunks:
        notices = Notices()
        encode(column, pl.Series("c", values), np.zeros((len(values), 1)), notices)
        total += notices
    rows = sum(map(len, chunks))
    if refused:
        with pytest.raises(DataError, match=r"'c' holds no value that the model knows .*'x'"):
            total.check(rows)
    else:
        total.check(rows)


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
    pl.String: st.text(max_size=2).filter(lambda text: "," not in text),
    pl.Boolean: st.booleans(),
    pl.Date: st.dates(),
}


@given(data=st.data(), dtype=st.sampled_from(list(VALUES)))
def test_the_validation_part_never_moves_the_training_part(data, dtype):
    """Statistics and categories come from the training part, whatever the other part holds."""
    columns = st.lists(st.none() | VALUES[dtype], min_size=5, max_size=5)
    values, others = data.draw(columns), data.draw(columns)
    mixed = [v if t else o for v, o, t in zip(values, others, TRAINING, strict=True)]
    one, two = encoded(values, dtype)[0], encoded(mixed, dtype)[0]
    np.testing.assert_array_equal(one[TRAINING], two[TRAINING])
