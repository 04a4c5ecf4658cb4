"""The target column of a table -> what a model shall predict."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from steepest.data.columns import floats, is_text, mean_and_std, refuse_commas, standardised
from steepest.data.rows import Missing, Row, Trained
from steepest.data.typed import decimals, grouped, has_grouped
from steepest.errors import DataError
from steepest.figures import counted

Task = Literal["regression", "classification"]
MOST_INFERRED_CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is predicted.

    Attributes:
        name: the target's column.
        kind: its type as it was read, in polars' words.
        task: regression or classification.
        classes: the classes in order; empty in regression.
        mean: the mean of the training part in regression.
        std: its standard deviation in regression, the unit that a model predicts in.
        grouped: whether its numbers are texts with commas between their thousands.
    """

    name: str
    kind: str
    task: Task
    classes: tuple[str | bool | int, ...] = ()
    mean: float = 0.0
    std: float = 1.0
    grouped: bool = False

    def encode(self, column: pl.Series, first_row: int = 0) -> np.ndarray:
        """Return float32 `(n, 1)` in regression, int64 class indices `(n,)` in classification.

        Raises:
            DataError: a value is missing, infinite, or none of the classes.
        """
        numbers = _checked(column, first_row)
        if self.task == "regression":
            numbers = _as_numbers(column, numbers, self.grouped, first_row)
            return standardised(self.name, numbers, self.mean, self.std, first_row)[:, None]
        return self._indices(column, first_row)

    def _indices(self, column: pl.Series, first_row: int) -> np.ndarray:
        if isinstance(self.classes[0], str):
            known = pl.Series(self.classes, dtype=pl.String)
            column = column.cast(pl.String)
        else:
            known = pl.Series([float(c) for c in self.classes])
            column = decimals(column) if is_text(column) else column.cast(pl.Float64)
        places = pl.int_range(len(known), dtype=pl.Int64, eager=True)
        found = column.replace_strict(known, places, default=None, return_dtype=pl.Int64)
        if found.null_count():
            row = found.is_null().arg_max() or 0
            shown = ", ".join(map(str, self.classes[:10])) + ("" if len(known) <= 10 else ", ...")
            raise DataError(
                f"target {self.name!r} is {column[row]} in ",
                Row(first_row + row),
                f": its classes are {shown}",
            )
        return found.to_numpy(writable=True)


def fit_target(
    column: pl.Series, training: np.ndarray, task: Task | None
) -> tuple[Target, tuple[str, ...]]:
    """Fit the target; return it with sentences on what was taken for granted.

    Without `task`: text, booleans and whole numbers that look like classes mean classification,
    other numbers regression. Whole numbers look like classes if there are two different ones, or
    3 to 10 that count up from 0 or 1. `training` `(rows,)` marks the rows of the training part.

    Raises:
        DataError: a value is missing or infinite, the type does not suit the task, all values
            are equal, or a class has no row in the training part.
    """
    numbers, commas = _checked(column), False
    notes: tuple[str, ...] = ()
    if numbers is None and is_text(column) and task != "classification":
        text = column.cast(pl.String)
        if commas := has_grouped(text):
            numbers = floats(grouped(text))
        else:
            refuse_commas(text, "target", "give task='classification' to take them as classes")
    if task is None:
        task, note = _infer_task(column, numbers)
        notes = (f"target {column.name!r} holds {note}",)
    if task == "regression":
        return _fit_regression(column, numbers, training, commas), notes
    return _fit_classes(column, numbers, training), notes


def _checked(column: pl.Series, first_row: int = 0) -> np.ndarray | None:
    """Return the numbers of the target, None for text and booleans, and refuse what is missing."""
    numeric = column.dtype.is_numeric()
    if not (numeric or is_text(column) or column.dtype in (pl.Boolean, pl.Null)):
        raise DataError(
            f"target {column.name!r} is of type {column.dtype}: a target holds numbers, text or "
            f"booleans"
        )
    numbers = floats(column, first_row) if numeric else None
    missing = column.is_null().to_numpy() if numbers is None else np.isnan(numbers)
    if missing.any():
        raise DataError(
            f"target {column.name!r} is missing in ",
            Missing(int(missing.sum())),
            ", first in ",
            Row(first_row + int(missing.argmax())),
            ": a target has a value in every row; remove those rows",
        )
    return numbers


def _infer_task(column: pl.Series, numbers: np.ndarray | None) -> tuple[Task, str]:
    """Return the task that the target's values suggest, and why."""
    if numbers is None:
        _refuse_almost_numbers(column)
        kind = "booleans" if column.dtype == pl.Boolean else "text"
        return "classification", f"{kind}: taken as classification"
    for part in (numbers[:1000], numbers):  # the first ones tell as a rule
        distinct = np.unique(part)
        if len(distinct) > MOST_INFERRED_CLASSES or not _whole(distinct).all():
            return "regression", "numbers: taken as regression"
    count, first, last = len(distinct), distinct[0], distinct[-1]
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
    stray = decimals(text).is_null()
    if 0 < 2 * stray.sum() < len(column):
        row = stray.arg_max() or 0
        raise DataError(
            f"target {column.name!r} holds numbers, except {text[row]!r} in ",
            Row(row),
            ": correct that value, or give task='classification' to take every text as a class",
        )


def _as_numbers(
    column: pl.Series, numbers: np.ndarray | None, commas: bool, first_row: int = 0
) -> np.ndarray:
    """Return a regression's target, of which every value is a number."""
    if numbers is not None:
        return numbers
    found = pl.repeat(None, len(column), eager=True)
    if is_text(column):
        text = column.cast(pl.String)
        found = grouped(text) if commas else decimals(text)
    if found.null_count():
        row = found.is_null().arg_max() or 0
        raise DataError(
            f"target {column.name!r} holds {str(column[row])!r} in ",
            Row(first_row + row),
            ": regression predicts numbers; give task='classification' or another target",
        )
    return floats(found, first_row)


def _fit_regression(
    column: pl.Series, numbers: np.ndarray | None, training: np.ndarray, commas: bool
) -> Target:
    known = _as_numbers(column, numbers, commas)[training]
    first, several = known[0], known.min() < known.max()
    mean, std = mean_and_std(known)
    if not (several and std > 0):
        raise DataError(
            f"target {column.name!r} is {first:g} in every training row: regression needs "
            f"values that differ"
        )
    kind = str(column.dtype)
    return Target(
        name=column.name, kind=kind, task="regression", mean=mean, std=std, grouped=commas
    )


def _fit_classes(column: pl.Series, numbers: np.ndarray | None, training: np.ndarray) -> Target:
    if numbers is not None:
        _refuse_fractions(column, numbers)
        values = pl.Series(numbers).cast(pl.Int64)
    else:
        values = column if column.dtype == pl.Boolean else column.cast(pl.String)
    classes = values.unique().sort()
    if len(classes) < 2:
        raise DataError(
            f"target {column.name!r} has one class, {classes[0]}: classification needs at least two"
        )
    trained = values.filter(pl.Series(training)).unique()
    if len(trained) < len(classes):
        unseen = classes.filter(~classes.is_in(trained.implode()))
        raise DataError(
            f"class {unseen[0]} of target {column.name!r} has no row in the training part "
            f"({counted(len(classes), 'class', 'classes')}, ",
            Trained(int(training.sum())),
            "): use more rows, a smaller validation part or another seed",
        )
    labels = tuple(classes.to_list())
    return Target(name=column.name, kind=str(column.dtype), task="classification", classes=labels)


def _refuse_fractions(column: pl.Series, numbers: np.ndarray) -> None:
    fraction = ~_whole(numbers)
    if fraction.any():
        row = int(fraction.argmax())
        raise DataError(
            f"target {column.name!r} is {numbers[row]:g} in ",
            Row(row),
            ": a class is a text, a boolean or a whole number below 2**53; give task='regression'",
        )
