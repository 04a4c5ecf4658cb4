"""A table larger than memory -> rows as numbers on disk, which `Stream` hands out in batches."""

import contextlib
import os
import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import platformdirs
import polars as pl
import torch

from steepest.data import blocks
from steepest.data.blocks import Blocks, BlockWriter
from steepest.data.columns import Column
from steepest.data.files import Source, chunks, label
from steepest.data.notices import Notices
from steepest.data.seeds import check_whole
from steepest.data.stream import MEMORY, Stream, block_rows, check_memory
from steepest.data.survey import MOST_CLASSES, Split, Survey, drawn, surveyed
from steepest.data.tables import check_options
from steepest.data.target import Target, Task
from steepest.data.transform import Transform, fit
from steepest.errors import DataError

LEAST_MEMORY = 128 * 2**20  # of which polars takes a half for itself
PIECE = 2 * 2**20  # bytes of features that are encoded at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class StreamedTable:
    """A table as numbers on disk, split into a training and a validation part.

    Rows are pairs of features and target as in `Table`, `validation` is None where no row was
    kept. `transform` makes the same of new rows; `notes` are sentences on what was inferred or
    left out.
    """

    train: Blocks
    validation: Blocks | None
    transform: Transform
    notes: tuple[str, ...]
    memory: int

    @property
    def target(self) -> Target:
        """What is to be predicted."""
        return self.transform.target

    def batches(
        self, batch_size: int = 32, *, seed: int = 0, device: torch.device | str = "cpu"
    ) -> tuple[Stream, Stream | None]:
        """Return the batches to train on, and those of the validation part if it has rows."""
        memory, device = self.memory, torch.device(device)
        training = Stream(
            self.train, batch_size=batch_size, seed=seed, memory=memory, device=device
        )
        if self.validation is None:
            return training, None
        rows = Stream(self.validation, batch_size=1024, shuffle=False, memory=memory, device=device)
        return training, rows


def stream_table(
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
    memory: int = MEMORY,
    folder: str | Path | None = None,
) -> StreamedTable:
    """Make numbers of a table that is larger than memory, as `load_table` does of a smaller one.

    The table is read twice, in chunks: once for its facts, once to encode its rows and write
    them to a file in `folder` (left out, the user's cache) that has no name and ends with the
    process. All that takes at most `memory` bytes of the process's own memory: not counted are
    pages of files, which the system takes back at will; on top come the largest row group of a
    Parquet file and some 75 KiB for each column of a CSV file with thousands of them.

    Means, standard deviations, categories and counts are those of all rows of the training part;
    a median, which fills for a missing value, is that of a fair sample of them, of an eighth of
    `memory`. A row is of the validation part by a random number of its own, drawn by `seed` and
    the row's number: about a share of `validation` of all, and not the rows that `load_table`
    keeps.

    Raises:
        DataError: as `load_table`; the target has more than 10,000 classes; `memory` is below
            128 MiB; or the file cannot be written.
    """
    check_options(task, max_categories)
    check_memory(memory, LEAST_MEMORY)
    split = _split(validation, seed)
    survey = surveyed(
        source,
        target=target,
        task=task,
        split=split,
        seed=seed,
        text=categorical,
        max_categories=max_categories,
        memory=memory // 8,
    )
    with _naming(source):
        _check_parts(survey, validation)
        try:
            transform, notes = fit(
                survey.frame,
                target=target,
                training=survey.training,
                task=task,
                max_categories=max_categories,
                drop=drop,
                categorical=categorical,
                numeric=numeric,
            )
        except DataError as error:
            raise survey.retold(error, target) from error
        transform = _with_fair_medians(transform, survey)
        there = Path(folder or platformdirs.user_cache_path("steepest") / "tables")
        writing = _Writing(survey, transform, split, memory, there)
    return writing.table(source, notes)


@contextlib.contextmanager
def _naming(source: Source) -> Iterator[None]:
    """Put the table's name before what is said of its columns."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{label(source)}: {error}") from error


def is_large(source: Source, memory: int | None = None) -> bool:
    """Tell whether a table's files take more than `memory` bytes; a frame is in memory already.

    Left out, it is a quarter of what the machine has, as numbers take about half of what they
    take as text, and making tensors of them up to three times that.
    """
    if not isinstance(source, str | Path):
        return False
    path = Path(source)
    files = path.glob("*.parquet") if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files if file.is_file())
    return size > (_memory_of_machine() // 4 if memory is None else memory)


def _memory_of_machine() -> int:
    """Return the machine's memory in bytes, or what a container may take of it."""
    found = [8 * 2**30]  # where nothing tells
    if hasattr(os, "sysconf"):
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, ValueError):  # "max" is no number
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(found)


def _split(validation: float, seed: int) -> Split:
    check_whole("seed", seed)
    if not 0 <= validation < 1:
        raise DataError(f"validation is a share of the rows, from 0 to below 1: got {validation}")
    bound = np.uint64(int(validation * 2**64))
    return lambda first, rows: drawn("split", seed, first, rows) >= bound


def _check_parts(survey: Survey, validation: float) -> None:
    if survey.trained < 2 or (validation > 0 and survey.trained == survey.rows):
        raise DataError(
            f"a table of {survey.rows} rows is too small to draw the rows of its parts one by one, "
            f"a share of {validation} for validation: use more rows, or do not stream it"
        )


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


class _Writing:
    """Encode the rows of a table chunk by chunk and write them to disk."""

    def __init__(
        self, survey: Survey, transform: Transform, split: Split, memory: int, folder: Path
    ) -> None:
        if len(transform.target.classes) > MOST_CLASSES:
            raise DataError(
                f"target {transform.target.name!r} has more than {MOST_CLASSES} classes"
            )
        self.survey = survey
        self.transform = transform
        self.split = split
        self.memory = memory
        self.regression = transform.target.task == "regression"
        y = np.dtype(np.float32), (1,)
        row = (
            blocks.Column(np.dtype(np.float32), (len(transform.features),)),
            blocks.Column(*y) if self.regression else blocks.Column(np.dtype(np.int64), ()),
        )
        row_bytes = sum(column.row_bytes for column in row)
        _check_disk(folder, survey.rows * row_bytes)
        height = block_rows(row_bytes, memory)
        self.parts = [BlockWriter(folder, row, height) for _ in ("training", "validation")]
        self.piece = max(1, PIECE // row_bytes)
        self.x, self.y = _Moments(), _Moments()
        self.notices = Notices()

    def table(self, source: Source, notes: tuple[str, ...]) -> StreamedTable:
        """Write all rows; return the table with what is exact of all rows."""
        first = 0
        for frame in chunks(source, self.survey.text):
            for piece in frame.iter_slices(self.piece):
                with _naming(source):
                    self._add(piece, first)
                first += piece.height
        train, validation = (part.close() for part in self.parts)
        transform = self._exact(train, validation)
        told = self.notices.sentences("validation rows")
        return StreamedTable(
            train=train,
            validation=validation if validation.rows else None,
            transform=transform,
            notes=(*map(_uncounted, notes), *told),
            memory=self.memory,
        )

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
            why = _uncounted(column.left_out)
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


def _uncounted(why: str) -> str:
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
