"""A table -> tensors of a training and a validation part."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steepest.data.batches import Batches
from steepest.data.files import Source, label, read_table
from steepest.data.gathered import Gathered
from steepest.data.notices import Notices, shown
from steepest.data.seeds import check_whole, generator
from steepest.data.target import Target, Task
from steepest.data.transform import Transform, fit
from steepest.errors import DataError, nearest
from steepest.figures import counted

__all__ = ["Table", "Task", "Transform", "load_table", "read_table"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """A table as tensors, split into a training and a validation part.

    Features are float32 `(n, d)`. The target is float32 `(n, 1)` in regression, in units of
    `target.std` from `target.mean`, and int64 `(n,)` in classification, an index into
    `target.classes`. `transform` makes the same of new rows. `notes` are sentences on what was
    inferred or left out.
    """

    train_x: Tensor
    train_y: Tensor
    validation_x: Tensor
    validation_y: Tensor
    transform: Transform
    notes: tuple[str, ...]

    @property
    def target(self) -> Target:
        """What is to be predicted."""
        return self.transform.target

    def batches(
        self, batch_size: int = 32, *, seed: int = 0, device: torch.device | str = "cpu"
    ) -> tuple[Batches, Batches | None]:
        """Return the batches to train on, and those of the validation part if it has rows."""
        training = Batches(self.train_x, self.train_y, batch_size=batch_size, seed=seed)
        if not len(self.validation_x):
            return training.to(device), None
        rows = Batches(self.validation_x, self.validation_y, batch_size=1024, shuffle=False)
        return training.to(device), rows.to(device)


def load_table(
    source: Source,
    *,
    target: str,
    task: Task | None = None,
    validation: float = 0.2,
    seed: int = 0,
    max_categories: int = 50,
    drop: Collection[str] = (),
    categorical: Collection[str] = (),
    numeric: Collection[str] = (),
) -> Table:
    """Read a table and make tensors of it: one column is the target, the others are features.

    Numbers are standardised, text of up to `max_categories` categories becomes one-hot, booleans
    0 and 1, dates days since 1970. Missing numbers are filled with the median, missing text is a
    category. Every statistic comes from the training part alone. Columns of no use are left out,
    and so are those named in `drop`; those in `categorical` become categories and those in
    `numeric` numbers, whatever they hold.

    The rows of the validation part, a share of `validation` of all, depend on `seed` and the
    number of rows only. `task` is "regression", "classification", or None: see `fit_target`.

    Raises:
        DataError: the source cannot be read, a column is unknown, the target is unfit, no feature
            is left, a number is infinite, or there are too few rows.
    """
    check_options(task, max_categories)
    table = Gathered(source, text=categorical)
    check_target(source, table.columns, target)
    try:
        training = _training_rows(table.height, validation, seed)
        transform, notes = fit(
            table,
            target=target,
            training=training,
            task=task,
            max_categories=max_categories,
            drop=drop,
            categorical=categorical,
            numeric=numeric,
        )
        return _filled(table, transform, training, notes)
    except DataError as error:
        raise DataError(f"{label(source)}: {error}") from error


def check_options(task: str | None, max_categories: int) -> None:
    """Refuse options that no table can have.

    Raises:
        DataError: one is wrong.
    """
    if task not in (None, "regression", "classification"):
        raise DataError(f"task is 'regression' or 'classification': got {task!r}")
    check_whole("max_categories", max_categories, at_least=2)


def check_target(source: Source, columns: Sequence[str], target: str) -> None:
    """Refuse a target that is no column of the table.

    Raises:
        DataError: it is none.
    """
    if target not in columns:
        shown = ", ".join(repr(name) for name in columns[:20])
        raise DataError(
            f"{label(source)} has no column {target!r}{nearest(target, columns)}: the target "
            f"is one of {shown}{' ...' if len(columns) > 20 else ''}"
        )


def _filled(
    table: Gathered, transform: Transform, training: np.ndarray, notes: tuple[str, ...]
) -> Table:
    """Encode chunk by chunk, each row straight to its part."""
    parts = [_Part(transform, training), _Part(transform, ~training)]
    found, first = Notices(), 0
    for frame in table.frames():
        x, y, notices = transform.apply(frame, first_row=first)
        assert y is not None
        for part in parts:
            part.add(x, y, first)
        found += notices
        first += frame.height
    known, unseen = (torch.from_numpy(part.y) for part in parts)
    told = found.sentences("validation row")
    if len(unseen):
        told.append(_to_compare(transform.target, known, unseen))
    return Table(
        train_x=torch.from_numpy(parts[0].x),
        train_y=known,
        validation_x=torch.from_numpy(parts[1].x),
        validation_y=unseen,
        transform=transform,
        notes=(*notes, *told),
    )


def _to_compare(target: Target, known: Tensor, unseen: Tensor) -> str:
    """Say how well the validation part is predicted without a model."""
    if target.task == "classification":
        often = known.bincount().argmax()
        share = (unseen == often).float().mean().item()
        return f"always {target.classes[int(often)]} would be right in {share:.1%} of validation"
    error = unseen.abs().mean().item() * target.std
    return (
        f"always the mean, {shown(target.mean)}, would have a mean absolute error (mae) of "
        f"{shown(error)} in validation, in units of {target.name!r}"
    )


class _Part:
    """The rows of a table that a mask marks, as numbers, filled from the first to the last."""

    def __init__(self, transform: Transform, mask: np.ndarray) -> None:
        rows = int(mask.sum())
        self.mask = mask
        self.x = np.empty((rows, len(transform.features)), np.float32)
        numbers = transform.target.task == "regression"
        self.y = np.empty((rows, 1), np.float32) if numbers else np.empty(rows, np.int64)
        self._end = 0

    def add(self, x: np.ndarray, y: np.ndarray, first: int) -> None:
        """Take the marked ones of these rows, the first of which is the table's row `first`."""
        rows = np.flatnonzero(self.mask[first : first + len(x)])
        place = slice(self._end, self._end + len(rows))
        self._end = place.stop
        np.take(x, rows, axis=0, out=self.x[place])
        np.take(y, rows, axis=0, out=self.y[place])


def _training_rows(rows: int, validation: float, seed: int) -> np.ndarray:
    """Mark the rows `(rows,)` of the training part."""
    if not 0 <= validation < 1:
        raise DataError(f"validation is a share of the rows, from 0 to below 1: got {validation}")
    held_out = max(1, round(rows * validation)) if validation > 0 else 0
    if rows - held_out < 2:
        raise DataError(
            f"a table of {counted(rows, 'row')} is too small to keep {held_out} for validation: at "
            f"least 2 rows are left for training; use more rows or a smaller validation part"
        )
    order = torch.randperm(rows, generator=generator("split", seed))
    training = np.ones(rows, bool)
    training[order[:held_out].numpy()] = False
    return training
