"""A column of a table -> numbers that a model can learn from.

Whatever is computed from values (mean, median, categories) is computed from the training part
alone, so that the validation part stays unseen.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from steepest.errors import DataError

MISSING = "(missing)"
MICROSECONDS_PER_DAY = 86_400e6
NANOSECONDS_PER_HOUR = 3_600e9


@dataclass(frozen=True)
class Encoded:
    """A column as numbers `(rows, len(names))`; a column without names is left out."""

    names: tuple[str, ...]
    values: np.ndarray
    notes: tuple[str, ...] = ()


def encode(column: pl.Series, training: np.ndarray, max_categories: int) -> Encoded:
    """Turn a feature column into standardised, 0/1 or one-hot numbers.

    `training` `(rows,)` marks the rows of the training part.

    Raises:
        DataError: a value is infinite.
    """
    if column.name == "":
        return _left_out(column, "it has no name")
    if is_text(column):
        return _encode_text(column.cast(pl.String), training, max_categories)
    if column.dtype.is_temporal():
        numbers, unit = from_time(column)
        encoded = _encode_numeric(numbers, training)
        note = f"{column.name!r} holds {column.dtype.base_type()}: turned into {unit}"
        told = (note, *encoded.notes) if encoded.names else encoded.notes
        return Encoded(encoded.names, encoded.values, told)
    if column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null):
        return _encode_numeric(column, training)
    return _left_out(column, f"its type {column.dtype} is neither number, boolean, text nor date")


def is_text(column: pl.Series) -> bool:
    """Say whether a column holds text, in any of polars' three ways."""
    return column.dtype.base_type() in (pl.String, pl.Categorical, pl.Enum)


def floats(column: pl.Series) -> np.ndarray:
    """Return the numbers of a column `(n,)` in float64, NaN where missing.

    Raises:
        DataError: a value is infinite.
    """
    values = column.cast(pl.Float64).to_numpy()
    infinite = np.isinf(values)
    if infinite.any():
        raise DataError(
            f"column {column.name!r} is infinite in row {int(infinite.argmax()) + 1}: numbers are "
            f"finite; correct or remove the value"
        )
    return values


def standardise(
    name: str, values: np.ndarray, training: np.ndarray
) -> tuple[np.ndarray, float, float]:
    """Return `(values - mean) / std` in float32, mean and std; those of the training part.

    The values are scaled to 1 first: the square of 1e200 would overflow.

    Raises:
        DataError: a value of the validation part is too far off for float32.
    """
    scale = float(np.abs(values[training]).max()) or 1.0
    with np.errstate(over="ignore"):
        scaled = values / scale
        mean, std = float(scaled[training].mean()), float(scaled[training].std())
        standard = ((scaled - mean) / std).astype(np.float32)
    infinite = np.isinf(standard)
    if infinite.any():
        row = int(infinite.argmax())
        raise DataError(
            f"column {name!r} is {values[row]:g} in row {row + 1}, further from the training part "
            f"than float32 can tell: correct the value"
        )
    return standard, mean * scale, std * scale


def _left_out(column: pl.Series, why: str) -> Encoded:
    nothing = np.empty((len(column), 0), np.float32)
    return Encoded((), nothing, (f"column {column.name!r} is left out: {why}",))


def _encode_numeric(column: pl.Series, training: np.ndarray) -> Encoded:
    values = floats(column)
    missing = np.isnan(values)
    known = values[training & ~missing]
    if known.size == 0:
        return _left_out(column, "all its values in the training part are missing")
    if known.min() == known.max():
        return _left_out(column, f"it has one value only in the training part, {known[0]:g}")
    notes = ()
    if missing.any():
        median = float(np.median(known))
        values = np.where(missing, median, values)
        notes = (
            f"{column.name!r}: {missing.sum()} of {len(values)} values are missing, filled with "
            f"{median:g}, the median of the training part",
        )
    if column.dtype != pl.Boolean:
        values, _, _ = standardise(column.name, values, training)
    return Encoded((column.name,), values.astype(np.float32)[:, None], notes)


def _encode_text(column: pl.Series, training: np.ndarray, max_categories: int) -> Encoded:
    name, filled = column.name, column.fill_null(MISSING)
    categories = filled.filter(pl.Series(training)).unique().sort()
    if len(categories) == 1:
        return _left_out(column, f"it has one value only in the training part, {categories[0]!r}")
    if len(categories) > max_categories:
        return _left_out(
            column,
            f"it has {len(categories)} different texts, more than max_categories={max_categories}",
        )
    notes = []
    if column.null_count():
        notes.append(
            f"{name!r}: {column.null_count()} of {len(column)} values are missing, a category of "
            f"their own"
        )
    unseen = filled.filter(~filled.is_in(categories.implode()))
    if len(unseen):
        notes.append(
            f"{name!r}: {len(unseen)} validation rows hold categories that the training part "
            f"lacks (such as {unseen[0]!r}), all zeros there"
        )
    values = (filled.to_numpy()[:, None] == categories.to_numpy()).astype(np.float32)
    return Encoded(tuple(f"{name}={category}" for category in categories), values, tuple(notes))


def from_time(column: pl.Series) -> tuple[pl.Series, str]:
    """Turn dates into days since 1970, durations into days, times of day into hours."""
    kind = column.dtype.base_type()
    if kind == pl.Duration:
        return column.dt.total_microseconds() / MICROSECONDS_PER_DAY, "days"
    if kind == pl.Time:
        return column.cast(pl.Float64) / NANOSECONDS_PER_HOUR, "hours since midnight"
    return column.dt.timestamp("us") / MICROSECONDS_PER_DAY, "days since 1970"
