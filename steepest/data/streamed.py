"""A table larger than memory -> rows as numbers on disk, which `Stream` hands out in batches."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
import torch

from steepest.data.blocks import Blocks
from steepest.data.files import Source
from steepest.data.memory import memory_of_machine
from steepest.data.seeds import check_whole, drawn
from steepest.data.stream import MEMORY, Stream, check_memory
from steepest.data.survey import Split, Survey, surveyed
from steepest.data.tables import check_options
from steepest.data.target import Target, Task
from steepest.data.transform import Transform, fit
from steepest.data.writing import Writing, naming, uncounted
from steepest.errors import DataError
from steepest.figures import counted

LEAST_MEMORY = 128 * 2**20  # of which polars takes a half for itself


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
    with naming(source):
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
        there = Path(folder or platformdirs.user_cache_path("steepest") / "tables")
        writing = Writing(survey, transform, split, memory, there)
    written = writing.written(source)
    return StreamedTable(
        train=written.train,
        validation=written.validation if written.validation.rows else None,
        transform=written.transform,
        notes=(*map(uncounted, notes), *written.notices.sentences("validation row")),
        memory=memory,
    )


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
    return size > (memory_of_machine() // 4 if memory is None else memory)


def _split(validation: float, seed: int) -> Split:
    check_whole("seed", seed)
    if not 0 <= validation < 1:
        raise DataError(f"validation is a share of the rows, from 0 to below 1: got {validation}")
    bound = np.uint64(int(validation * 2**64))
    return lambda first, rows: drawn("split", seed, first, rows) >= bound


def _check_parts(survey: Survey, validation: float) -> None:
    if survey.trained < 2 or (validation > 0 and survey.trained == survey.rows):
        raise DataError(
            f"a table of {counted(survey.rows, 'row')} is too small to draw the rows of its parts "
            f"one by one, a share of {validation} for validation: use more rows, or do not stream "
            f"it"
        )
