"""A column of a table -> numbers that a model can learn from.

What a column becomes is fitted to the training part alone, so that the validation part stays
unseen, and then frozen: new data are encoded with the same numbers.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl

from steepest.data.notices import Notices
from steepest.data.rows import Row
from steepest.data.typed import booleans, comma_number, dates, decimals, grouped, has_grouped
from steepest.errors import DataError

MISSING = "(missing)"
PER_DAY = {"ms": 86_400e3, "us": 86_400e6, "ns": 86_400e9}
NANOSECONDS_PER_HOUR = 3_600e9

Role = Literal["numeric", "category", "boolean", "date"]
Unit = Literal["days since 1970", "days", "hours since midnight"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """How one column becomes numbers.

    Attributes:
        name: its name in the table.
        kind: its type as it was read, in polars' words.
        role: numeric, category, boolean or date; None where it is of no use.
        missing: the values that were missing in the table that it was fitted to.
        fill: the number for a missing value: the median of the training part.
        mean: what is subtracted from a number.
        std: what a number is then divided by.
        categories: the texts that become a number each, 0 or 1; `(missing)` may be among them.
        unit: what a date is turned into.
        grouped: whether its numbers are texts with commas between their thousands.
        left_out: why it is left out; empty where it is used.
    """

    name: str
    kind: str
    role: Role | None = None
    missing: int = 0
    fill: float = 0.0
    mean: float = 0.0
    std: float = 1.0
    categories: tuple[str, ...] = ()
    unit: Unit | None = None
    grouped: bool = False
    left_out: str = ""

    @property
    def features(self) -> tuple[str, ...]:
        """Return a name for each number that the column becomes."""
        if self.left_out:
            return ()
        if self.role == "category":
            return tuple(f"{self.name}={category}" for category in self.categories)
        return (self.name,)

    def numbers(self, values: pl.Series) -> pl.Series:
        """Return the values `(n,)` as float64, null where one is missing or is no number here."""
        if self.role == "date":
            return _times(values, self.unit)
        if is_text(values):
            text = values.cast(pl.String)
            if self.role == "boolean":
                return booleans(text).cast(pl.Float64)
            return grouped(text) if self.grouped else decimals(text)
        if not (values.dtype.is_numeric() or values.dtype in (pl.Boolean, pl.Null)):
            return _nothing(values)
        found = values.cast(pl.Float64)
        return found.set(~found.is_in([0.0, 1.0]), None) if self.role == "boolean" else found


def fit_column(
    values: pl.Series, training: np.ndarray, max_categories: int, asked: Role | None = None
) -> Column:
    """Fit a feature column: a role by its type or as asked, and the numbers that go with it.

    `training` `(rows,)` marks the rows of the training part.

    Raises:
        DataError: a value is infinite, a number's comma may mean two things, or the column
            cannot have the role that is asked for.
    """
    name, kind = values.name, str(values.dtype)
    if name == "":
        return Column(name=name, kind=kind, left_out="it has no name")
    role = asked or infer_role(values)
    if role is None:
        why = f"its type {kind} is neither number, boolean, text nor date"
        return Column(name=name, kind=kind, left_out=why)
    if role == "category":
        return _fit_category(values, training, max_categories, asked is not None)
    unit = unit_of(values) if role == "date" else None
    commas = role == "numeric" and is_text(values) and _commas(values.cast(pl.String))
    bare = Column(name=name, kind=kind, role=role, unit=unit, grouped=commas)
    if asked and bare.numbers(values).null_count() == len(values):
        raise DataError(f"column {name!r} cannot be {asked}: it holds no such value")
    return _fit_numbers(bare, values, training)


def encode(
    column: Column, values: pl.Series, out: np.ndarray, notes: Notices, first_row: int = 0
) -> None:
    """Write a column's numbers to `out` `(n, features)`, which holds zeros.

    Raises:
        DataError: a number is infinite or too far off.
    """
    if column.role == "category":
        _encode_category(column, values, out, notes)
        return
    found = column.numbers(values)
    if strays := found.null_count() - values.null_count():
        where = (found.is_null() & values.is_not_null()).arg_max() or 0
        notes.strays[column.name] = strays, str(values[where])
    numbers = floats(found, first_row)
    gone = np.isnan(numbers)
    if gone.any():
        notes.filled[column.name] = int(gone.sum())
        numbers = np.where(gone, column.fill, numbers)
    out[:, 0] = standardised(column.name, numbers, column.mean, column.std, first_row)


def _encode_category(column: Column, values: pl.Series, out: np.ndarray, notes: Notices) -> None:
    text = as_text(values).fill_null(MISSING)
    known = pl.Enum(column.categories)
    codes = text.cast(known, strict=False).to_physical().cast(pl.Int64).fill_null(-1).to_numpy()
    rows = np.flatnonzero(codes >= 0)
    out[rows, codes[rows]] = 1
    if len(rows) < len(codes):
        where = int((codes < 0).argmax())
        notes.unseen[column.name] = len(codes) - len(rows), text[where]


def infer_role(values: pl.Series) -> Role | None:
    """Return the role that a column's type and values suggest; None where there is none.

    Raises:
        DataError: it holds numbers with commas that may be decimal signs or not.
    """
    if is_text(values):
        return "numeric" if _commas(values.cast(pl.String)) else "category"
    if values.dtype == pl.Boolean:
        return "boolean"
    if values.dtype.is_temporal():
        return "date"
    return "numeric" if values.dtype.is_numeric() or values.dtype == pl.Null else None


def refuse_commas(text: pl.Series, what: str, otherwise: str) -> None:
    """Refuse a column of numbers with commas that nobody can tell the meaning of.

    Raises:
        DataError: it is one.
    """
    if found := comma_number(text):
        raise DataError(
            f"{what} {text.name!r} holds numbers with commas, such as {found!r}, that may set off "
            f"thousands or decimals: write them with a decimal point and without commas, or "
            f"{otherwise}"
        )


def _commas(text: pl.Series) -> bool:
    """Say whether all are numbers with commas between their thousands; refuse what may be."""
    if has_grouped(text):
        return True
    refuse_commas(text, "column", "--drop it or take it as --categorical")
    return False


def is_text(values: pl.Series) -> bool:
    """Say whether a column holds text, in any of polars' three ways."""
    return values.dtype.base_type() in (pl.String, pl.Categorical, pl.Enum)


def as_text(values: pl.Series) -> pl.Series:
    """Return the values as texts; whole numbers without a decimal point, whatever their type."""
    text = values.cast(pl.String)
    if not values.dtype.is_float():
        return text
    whole = values.cast(pl.Int64, strict=False)
    return whole.cast(pl.String).zip_with(whole == values, text).set(values.is_nan(), None)


def floats(values: pl.Series, first_row: int = 0) -> np.ndarray:
    """Return the numbers of a column `(n,)` in float64, NaN where missing.

    Raises:
        DataError: a value is infinite.
    """
    found = values.cast(pl.Float64).to_numpy()
    infinite = np.isinf(found)
    if infinite.any():
        raise DataError(
            f"column {values.name!r} is infinite in ",
            Row(first_row + int(infinite.argmax())),
            ": numbers are finite; correct or remove the value",
        )
    return found


def mean_and_std(known: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation, in the memory of the numbers, which are lost.

    The square of 1e200 does not overflow here.
    """
    largest = max(abs(float(known.min())), abs(float(known.max())))
    scale = 1.0 if largest == 0 or 1e-100 < largest < 1e100 else largest
    if scale != 1:
        known /= scale
    mean = float(known.mean())
    known -= mean
    known *= known
    return mean * scale, math.sqrt(float(known.mean())) * scale


def standardised(
    name: str, values: np.ndarray, mean: float, std: float, first_row: int = 0
) -> np.ndarray:
    """Return `(values - mean) / std` `(n,)` in float32.

    Raises:
        DataError: a value is too far off for float32.
    """
    with np.errstate(over="ignore"):
        standard = ((values - mean) / std).astype(np.float32)
    infinite = np.isinf(standard)
    if infinite.any():
        row = int(infinite.argmax())
        raise DataError(
            f"column {name!r} is {values[row]:g} in ",
            Row(first_row + row),
            ", further from the training part than float32 can tell: correct the value",
        )
    return standard


def unit_of(values: pl.Series) -> Unit:
    """Return what dates and times of this type are turned into."""
    kind = values.dtype.base_type()
    if kind == pl.Duration:
        return "days"
    return "hours since midnight" if kind == pl.Time else "days since 1970"


def _times(values: pl.Series, unit: str | None) -> pl.Series:
    if is_text(values):
        values = dates(values.cast(pl.String))
    if not values.dtype.is_temporal() or unit_of(values) != unit:
        return _nothing(values)
    # As they are stored, in whole days or fractions of a second: dates of a damaged file may
    # lie beyond what polars can convert.
    stored = values.to_physical().cast(pl.Float64)
    if values.dtype == pl.Date:
        return stored
    if unit == "hours since midnight":
        return stored / NANOSECONDS_PER_HOUR
    return stored / PER_DAY[values.dtype.time_unit]  # type: ignore[attr-defined]


def _nothing(values: pl.Series) -> pl.Series:
    return pl.repeat(None, len(values), dtype=pl.Float64, eager=True).alias(values.name)


def _fit_numbers(bare: Column, values: pl.Series, training: np.ndarray) -> Column:
    found = floats(bare.numbers(values))
    gone = np.isnan(found)
    column = replace(bare, missing=int(gone.sum()))
    known = found[training & ~gone if column.missing else training]
    if known.size == 0:
        return replace(column, left_out="all its values in the training part are missing")
    fill = float(np.median(known, overwrite_input=True))
    if lacking := int(training.sum()) - known.size:
        known = np.append(known, np.full(lacking, fill))
    several = known.min() < known.max()
    mean, std = mean_and_std(known)
    if not (several and std > 0):
        return replace(column, left_out=f"it has one value only in the training part, {fill:g}")
    column = replace(column, fill=fill)
    return column if column.role == "boolean" else replace(column, mean=mean, std=std)


def _fit_category(
    values: pl.Series, training: np.ndarray, max_categories: int, asked: bool
) -> Column:
    text = as_text(values)
    found = text.filter(pl.Series(training)).fill_null(MISSING).unique().sort()
    column = Column(
        name=values.name, kind=str(values.dtype), role="category", missing=text.null_count()
    )
    if len(found) == 1:
        only = f"it has one value only in the training part, {found[0]!r}"
        return replace(column, left_out=only)
    if len(found) > max_categories:
        many = f"it has {len(found)} different texts, more than max_categories={max_categories}"
        if asked:
            raise DataError(f"column {values.name!r} is no category: {many}; raise that bound")
        return replace(column, left_out=many)
    return replace(column, categories=tuple(found.to_list()))
