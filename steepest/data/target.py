"""The target column of a table -> what a model shall predict."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from steepest.data.columns import floats, is_text, standardise
from steepest.errors import DataError

Task = Literal["regression", "classification"]
MOST_INFERRED_CLASSES = 10


@dataclass(frozen=True)
class Target:
    """The target: float32 `(rows, 1)` in regression, int64 class indices `(rows,)` otherwise."""

    task: Task
    values: np.ndarray
    classes: tuple[str | bool | int, ...] = ()
    mean: float = 0.0
    std: float = 1.0
    notes: tuple[str, ...] = ()


def encode_target(column: pl.Series, training: np.ndarray, task: Task | None) -> Target:
    """Turn the target column into standardised numbers or class indices.

    Without `task`: text, booleans and whole numbers that look like classes mean classification,
    other numbers regression. Whole numbers look like classes if there are two different ones, or
    3 to 10 that count up from 0 or 1.

    Raises:
        DataError: a value is missing or infinite, the type does not suit the task, all values
            are equal, or a class has no row in the training part.
    """
    numbers = _checked(column)
    notes: tuple[str, ...] = ()
    if task is None:
        task, note = _infer_task(column, numbers)
        notes = (f"target {column.name!r} holds {note}",)
    if task == "regression":
        return _regression(column, numbers, training, notes)
    return _classification(column, numbers, training, notes)


def _checked(column: pl.Series) -> np.ndarray | None:
    """Return the numbers of the target, None for text and booleans, and refuse what is missing."""
    numeric = column.dtype.is_numeric()
    if not (numeric or is_text(column) or column.dtype in (pl.Boolean, pl.Null)):
        raise DataError(
            f"target {column.name!r} is of type {column.dtype}: a target holds numbers, text or "
            f"booleans"
        )
    numbers = floats(column) if numeric else None
    missing = column.is_null().to_numpy() if numbers is None else np.isnan(numbers)
    if missing.any():
        raise DataError(
            f"target {column.name!r} is missing in {missing.sum()} rows, first in row "
            f"{int(missing.argmax()) + 1}: a target has a value in every row; remove those rows"
        )
    return numbers


def _infer_task(column: pl.Series, numbers: np.ndarray | None) -> tuple[Task, str]:
    """Return the task that the target's values suggest, and why."""
    if numbers is None:
        _refuse_almost_numbers(column)
        kind = "booleans" if column.dtype == pl.Boolean else "text"
        return "classification", f"{kind}: taken as classification"
    distinct = np.unique(numbers)
    count, first, last = len(distinct), distinct[0], distinct[-1]
    if count > MOST_INFERRED_CLASSES or not _whole(distinct).all():
        return "regression", "numbers: taken as regression"
    why = f"{count} different whole numbers, {first:g} to {last:g}: taken as "
    if count == 2 or (first in (0, 1) and last - first == count - 1):
        return "classification", f"{why}classification; task='regression' predicts a number"
    return "regression", f"{why}regression; task='classification' predicts one of them"


def _whole(numbers: np.ndarray) -> np.ndarray:
    """Mark the whole numbers `(n,)` that float64 tells from their neighbours."""
    return (numbers == np.round(numbers)) & (np.abs(numbers) <= 2**53)


def _refuse_almost_numbers(column: pl.Series) -> None:
    """Refuse numbers with a few stray texts, which would make hundreds of classes."""
    text = column.cast(pl.String)
    stray = text.cast(pl.Float64, strict=False).is_null()
    if 2 * stray.sum() < len(column):
        row = stray.arg_max() or 0
        raise DataError(
            f"target {column.name!r} holds numbers, except {text[row]!r} in row {row + 1}: correct "
            f"that value, or give task='classification' to take every text as a class"
        )


def _regression(
    column: pl.Series, numbers: np.ndarray | None, training: np.ndarray, notes: tuple[str, ...]
) -> Target:
    if numbers is None:
        raise DataError(
            f"target {column.name!r} holds {str(column[0])!r} in row 1: regression predicts "
            f"numbers; give task='classification' or another target"
        )
    known = numbers[training]
    if known.min() == known.max():
        raise DataError(
            f"target {column.name!r} is {known[0]:g} in every training row: regression needs "
            f"values that differ"
        )
    standard, mean, std = standardise(column.name, numbers, training)
    return Target("regression", standard[:, None], (), mean, std, notes)


def _classification(
    column: pl.Series, numbers: np.ndarray | None, training: np.ndarray, notes: tuple[str, ...]
) -> Target:
    if numbers is None:
        values = column.to_numpy() if column.dtype == pl.Boolean else column.cast(pl.String)
        classes, indices = np.unique(np.asarray(values), return_inverse=True)
    else:
        _refuse_fractions(column, numbers)
        classes, indices = np.unique(numbers, return_inverse=True)
        classes = classes.astype(np.int64)
    if len(classes) < 2:
        raise DataError(
            f"target {column.name!r} has one class, {classes[0]}: classification needs at least two"
        )
    rows = np.bincount(indices[training], minlength=len(classes))
    if rows.min() == 0:
        raise DataError(
            f"class {classes[rows.argmin()]} of target {column.name!r} has no row in the training "
            f"part ({len(classes)} classes, {training.sum()} training rows): use more rows, a "
            f"smaller validation part or another seed"
        )
    labels = tuple(classes.tolist())
    return Target("classification", indices.astype(np.int64), labels, notes=notes)


def _refuse_fractions(column: pl.Series, numbers: np.ndarray) -> None:
    fraction = ~_whole(numbers)
    if fraction.any():
        row = int(fraction.argmax())
        raise DataError(
            f"target {column.name!r} is {numbers[row]:g} in row {row + 1}: a class is a text, a "
            f"boolean or a whole number below 2**53; give task='regression'"
        )
