"""A table in a file -> tensors of a training and a validation part."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from steepest.data.columns import encode
from steepest.data.files import read_table
from steepest.data.seeds import check_whole, generator
from steepest.data.target import Task, encode_target
from steepest.errors import DataError, nearest

__all__ = ["Table", "load_table", "read_table"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """A table as tensors, split into a training and a validation part.

    Features are float32 `(n, d)`. The target is float32 `(n, 1)` in regression, in units of
    `target_std` from `target_mean` (0 and 1 in classification), and int64 `(n,)` in
    classification, an index into `classes`. `notes` are sentences that say what was done to the
    data.
    """

    train_x: Tensor
    train_y: Tensor
    validation_x: Tensor
    validation_y: Tensor
    feature_names: tuple[str, ...]
    target: str
    task: Task
    classes: tuple[str | bool | int, ...]
    target_mean: float
    target_std: float
    notes: tuple[str, ...]


def load_table(
    path: str | Path,
    *,
    target: str,
    task: Task | None = None,
    validation: float = 0.2,
    seed: int = 0,
    max_categories: int = 50,
) -> Table:
    """Read a table and make tensors of it: one column is the target, the others are features.

    Numbers are standardised, text of up to `max_categories` categories becomes one-hot, booleans
    0 and 1, dates days since 1970. Missing numbers are filled with the median, missing text is a
    category. Every statistic comes from the training part alone. Columns of no use are left out.

    The rows of the validation part, a share of `validation` of all, depend on `seed` and the
    number of rows only. `task` is "regression", "classification", or None: see `encode_target`.

    Raises:
        DataError: the file cannot be read, the target is unknown or unfit, no feature is left,
            a number is infinite, or there are too few rows.
    """
    _check_options(task, max_categories)
    frame = read_table(path)
    if target not in frame.columns:
        shown = ", ".join(repr(name) for name in frame.columns[:20])
        raise DataError(
            f"{path} has no column {target!r}{nearest(target, frame.columns)}: the target is one "
            f"of {shown}{' ...' if frame.width > 20 else ''}"
        )
    try:
        return _encode_table(frame, target, task, validation, seed, max_categories)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _check_options(task: str | None, max_categories: int) -> None:
    if task not in (None, "regression", "classification"):
        raise DataError(f"task is 'regression' or 'classification': got {task!r}")
    check_whole("max_categories", max_categories, at_least=2)


def _encode_table(
    frame: pl.DataFrame,
    target: str,
    task: Task | None,
    validation: float,
    seed: int,
    max_categories: int,
) -> Table:
    training = _training_rows(frame.height, validation, seed)
    goal = encode_target(frame[target], training, task)
    columns = [encode(column, training, max_categories) for column in frame.drop(target)]
    names = tuple(name for column in columns for name in column.names)
    notes = tuple(note for column in columns for note in column.notes)
    if not names:
        raise DataError("; ".join(("no feature column is left beside the target", *notes)))
    x = np.concatenate([column.values for column in columns], axis=1)
    return Table(
        train_x=torch.from_numpy(x[training]),
        train_y=torch.from_numpy(goal.values[training]),
        validation_x=torch.from_numpy(x[~training]),
        validation_y=torch.from_numpy(goal.values[~training]),
        feature_names=names,
        target=target,
        task=goal.task,
        classes=goal.classes,
        target_mean=goal.mean,
        target_std=goal.std,
        notes=goal.notes + notes,
    )


def _training_rows(rows: int, validation: float, seed: int) -> np.ndarray:
    """Mark the rows `(rows,)` of the training part."""
    if not 0 <= validation < 1:
        raise DataError(f"validation is a share of the rows, from 0 to below 1: got {validation}")
    held_out = max(1, round(rows * validation)) if validation > 0 else 0
    if rows - held_out < 2:
        raise DataError(
            f"a table of {rows} rows is too small to keep {held_out} for validation: at least 2 "
            f"rows are left for training; use more rows or a smaller validation part"
        )
    order = torch.randperm(rows, generator=generator("split", seed))
    training = np.ones(rows, bool)
    training[order[:held_out].numpy()] = False
    return training
