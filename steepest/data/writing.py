"""A table that is read in chunks -> its numbers on disk, standardised by what all rows have."""

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import polars as pl

from steepest.data.blocks import Blocks, BlockWriter, Field
from steepest.data.columns import Column
from steepest.data.files import Source, chunks, label
from steepest.data.notices import Notices
from steepest.data.stream import block_rows
from steepest.data.survey import MOST_CLASSES, Split, Survey
from steepest.data.target import Target
from steepest.data.transform import Transform
from steepest.errors import DataError

PIECE = 2 * 2**20  # bytes of features that are encoded at a time


@contextlib.contextmanager
def naming(source: Source) -> Iterator[None]:
    """Put the table's name before what is said of its columns."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{label(source)}: {error}") from error


@dataclass
class _Moments:
    """Count, mean and variance `(d,)` of rows `(n, d)` that come in parts.

    Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
    variances", equation 2.1.
    """

    count: int = 0
    mean: np.ndarray = field(default_factory=lambda: np.zeros(1))
    variance: np.ndarray = field(default_factory=lambda: np.zeros(1))

    def add(self, rows: np.ndarray) -> None:
        if len(rows) == 0:
            return
        self.count += len(rows)
        share = len(rows) / self.count
        off = rows.mean(0, np.float64) - self.mean
        within = rows.var(0, np.float64) - self.variance
        self.mean = self.mean + share * off
        self.variance = self.variance + share * within + share * (1 - share) * off**2


class Written(NamedTuple):
    """A table's parts on disk, what made numbers of it, and what is to be known of them."""

    train: Blocks
    validation: Blocks
    transform: Transform
    notices: Notices


class Writing:
    """Encode the rows of a table chunk by chunk, by a transform that was fitted to its survey.

    Raises:
        DataError: the target has more classes than a survey sees, or the disk has no room.
    """

    def __init__(
        self, survey: Survey, transform: Transform, split: Split, memory: int, folder: Path
    ) -> None:
        if len(transform.target.classes) > MOST_CLASSES:
            raise DataError(
                f"target {transform.target.name!r} has more than {MOST_CLASSES} classes"
            )
        self.survey = survey
        self.transform = _with_fair_medians(transform, survey)
        self.split = split
        self.regression = transform.target.task == "regression"
        number, index = np.dtype(np.float32), np.dtype(np.int64)
        y = Field(number, (1,)) if self.regression else Field(index, ())
        row = Field(number, (len(transform.features),)), y
        row_bytes = sum(field.row_bytes for field in row)
        _check_disk(folder, survey.rows * row_bytes)
        height = block_rows(row_bytes, memory)
        self.parts = [BlockWriter(folder, row, height) for _ in ("training", "validation")]
        self.piece = max(1, PIECE // row_bytes)
        self.x, self.y = _Moments(), _Moments()
        self.notices = Notices()

    def written(self, source: Source) -> Written:
        """Write all rows of the table; return them, and what is exact of all of them.

        Raises:
            DataError: a value cannot be encoded, or the file cannot be written.
        """
        first = 0
        for frame in chunks(source, self.survey.text):
            for piece in frame.iter_slices(self.piece):
                with naming(source):
                    self._add(piece, first)
                first += piece.height
        train, validation = (part.close() for part in self.parts)
        transform = self._exact(train, validation)
        return Written(train, validation, transform, self.notices)

    def _add(self, piece: pl.DataFrame, first: int) -> None:
        x, y, notices = self.transform.apply(piece, first_row=first)
        assert y is not None
        training = self.split(first, piece.height)
        for part, rows in zip(self.parts, (training, ~training), strict=True):
            part.add(x[rows], y[rows])
        self.x.add(x[training])
        if self.regression:
            self.y.add(y[training])
        self.notices += notices

    def _exact(self, *parts: Blocks) -> Transform:
        """Put what was counted over all rows in the place of what the survey's rows gave."""
        whole = len(self.survey.numbers) == self.survey.rows
        columns, place = [], 0
        means, stds = np.zeros_like(self.x.mean), np.ones_like(self.x.mean)
        for column in self.transform.columns:
            if column.role in ("numeric", "date") and column.features and not whole:
                means[place] = self.x.mean[place]
                stds[place] = np.sqrt(self.x.variance[place])
                column = _restandardised(column, means[place], stds[place])
            why = uncounted(column.left_out)
            columns.append(replace(column, missing=self._missing(column), left_out=why))
            place += len(column.features)
        target = self.transform.target
        if not whole:
            for part in parts:
                part.standardise(0, means, stds)
            if self.regression:
                mean, std = self.y.mean, np.sqrt(self.y.variance)
                target = _restandardised(target, mean[0], std[0])
                for part in parts:
                    part.standardise(1, mean, std)
        return Transform(columns=tuple(columns), target=target, rows=self.survey.rows)

    def _missing(self, column: Column) -> int:
        if column.left_out or column.role == "category":
            return self.survey.missing[column.name]
        return self.notices.filled.get(column.name, 0)


def _with_fair_medians(transform: Transform, survey: Survey) -> Transform:
    """Take the medians of a fair sample alone, without the rows that were taken for a reason."""
    fair = survey.frame.filter(pl.Series(survey.fair & survey.training))
    columns = []
    for column in transform.columns:
        if not column.left_out and column.role != "category":
            numbers = column.numbers(fair[column.name]).fill_nan(None).drop_nulls().to_numpy()
            if len(numbers):
                column = replace(column, fill=float(np.median(numbers)))
        columns.append(column)
    return replace(transform, columns=tuple(columns))


def uncounted(why: str) -> str:
    """Leave out how many texts a column has, of which a survey does not see all."""
    return re.sub(r"it has \d+ different texts, more", "it has more different texts", why)


C = TypeVar("C", Column, Target)


def _restandardised(column: C, mean: float, std: float) -> C:
    """Return the column standardised further, by mean and deviation of what it gave."""
    return replace(column, mean=float(column.mean + column.std * mean), std=float(column.std * std))


def _check_disk(folder: Path, size: int) -> None:
    """Refuse to begin what the disk has no room for."""
    there = next((place for place in (folder, *folder.parents) if place.is_dir()), None)
    free = size if there is None else shutil.disk_usage(there).free
    if free < size:
        raise DataError(
            f"a table that is streamed is written to {folder} first, which takes "
            f"{size / 2**30:.1f} GiB and has {free / 2**30:.1f}: free space there, or choose "
            f"another folder"
        )
