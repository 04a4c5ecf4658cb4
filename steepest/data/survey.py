"""A large table, read once in chunks -> a small one that is like it.

The small one has a fair sample of the rows, and every row that tells what a sample may miss: the
first one of each category, the first number that differs from those before, the first value that
is no date. So what a transform is fitted to it is what it would be fitted to the whole.
"""

from collections.abc import Callable, Collection, Set
from dataclasses import dataclass

import numpy as np
import polars as pl

from steepest.data.columns import is_text
from steepest.data.files import Source, chunks, mixed, no_rows, with_types
from steepest.data.rows import Missing, Row, Trained
from steepest.data.seeds import drawn
from steepest.data.tables import check_target
from steepest.data.target import Task
from steepest.data.typed import CERTAIN, COMMAS, booleans, dates, decimals, grouped
from steepest.errors import DataError

MOST_CLASSES = 10_000
INFERRED = 12  # different numbers tell whether a target is of classes
CONVERSIONS = {"number": decimals, "boolean": booleans, "date": dates, "grouped": grouped}

Split = Callable[[int, int], np.ndarray]
"""`split(first, rows)` marks those of the rows `(rows,)` that are of the training part."""


@dataclass(frozen=True)
class Survey:
    """Rows of a table that stand for all of them.

    Attributes:
        frame: the rows, in the table's order.
        numbers: their numbers in the table `(n,)`, from 0.
        training: which of them are of the training part `(n,)`.
        fair: which of them are a fair sample of the table `(n,)`; others were taken for a reason.
        rows: how many rows the table has.
        trained: how many of those are of the training part.
        missing: how many values each column lacks in the whole table.
        text: the columns that are to be read as text.
    """

    frame: pl.DataFrame
    numbers: np.ndarray
    training: np.ndarray
    fair: np.ndarray
    rows: int
    trained: int
    missing: dict[str, int]
    text: set[str]

    def retold(self, error: DataError, target: str) -> DataError:
        """Return what is wrong with these rows as what is wrong with the whole table."""
        return DataError(*(self._whole(part, target) for part in error.args))

    def _whole(self, part: object, target: str) -> object:
        match part:
            case Row(number):
                return Row(int(self.numbers[number]))
            case Missing():
                return Missing(self.missing[target])
            case Trained():
                return Trained(self.trained)
        return part


def surveyed(
    source: Source,
    *,
    target: str,
    task: Task | None,
    split: Split,
    seed: int,
    text: Collection[str],
    max_categories: int,
    memory: int,
) -> Survey:
    """Read a table once and return its survey, whose fair sample takes up to `memory` bytes.

    Columns named in `text` are read as texts.

    Raises:
        DataError: see `read_table`; or the table has no such target.
    """
    text = set(text)
    while True:
        sample, schemas = _Sample(seed, memory), []
        watches = _Watches(target, task, text, max_categories, memory)
        for frame in chunks(source, text):
            check_target(source, frame.columns, target)
            rows = _Rows(frame, sample.rows, split(sample.rows, frame.height))
            sample.add(rows, watches.exceptions(rows))
            if frame.schema not in schemas:
                schemas.append(frame.schema)
        again = mixed(schemas) - text
        if not again:
            break
        text |= again  # these hold texts after all, some of which looked like numbers
    if sample.rows == 0:
        raise no_rows(source)
    taken = sample.taken()
    return Survey(
        frame=with_types(taken.frame, source, text),
        numbers=taken.numbers,
        training=taken.training,
        fair=sample.fair(taken.numbers),
        rows=sample.rows,
        trained=sample.trained,
        missing=watches.missing(),
        text=text,
    )


class _Rows:
    """Some rows of a table, in order."""

    def __init__(self, frame: pl.DataFrame, first: int, training: np.ndarray) -> None:
        self.frame = frame
        self.numbers = np.arange(first, first + frame.height)
        self.training = training

    def taken(self, places: np.ndarray) -> "_Rows":
        """Return the rows at these places."""
        rows = _Rows(self.frame[places], 0, self.training[places])
        rows.numbers = self.numbers[places]
        return rows


class _Sample:
    """A fair sample of rows in bounded memory, and rows that are taken whatever comes.

    A row is in the sample while its random number lies below a bound, which is halved when the
    rows take too much memory.
    """

    def __init__(self, seed: int, memory: int) -> None:
        self.seed = seed
        self.memory = memory
        self.rows = 0
        self.trained = 0
        self._bound = 2**64
        self._bytes = 0
        self._fair: list[tuple[_Rows, np.ndarray]] = []
        self._certain: list[_Rows] = []

    def add(self, rows: _Rows, certain: np.ndarray) -> None:
        """Take from a chunk the rows at the places `certain`, and a share of all."""
        luck = drawn("sample", self.seed, self.rows, rows.frame.height)
        self.rows += rows.frame.height
        self.trained += int(rows.training.sum())
        self._certain.append(rows.taken(certain))
        self._keep(rows, luck)
        while self._bytes > self.memory and self._bound > 1:
            self._bound //= 2
            fair, self._fair, self._bytes = self._fair, [], 0
            for part in fair:
                self._keep(*part)

    def taken(self) -> _Rows:
        """Return the rows, each once."""
        parts = [*(rows for rows, _ in self._fair), *self._certain]
        numbers = np.concatenate([part.numbers for part in parts])
        frame = pl.concat([part.frame for part in parts], how="vertical_relaxed")
        whole = _Rows(frame, 0, np.concatenate([part.training for part in parts]))
        whole.numbers = numbers
        return whole.taken(np.unique(numbers, return_index=True)[1])

    def fair(self, numbers: np.ndarray) -> np.ndarray:
        """Mark the rows, given by their numbers, that were drawn."""
        return np.isin(numbers, np.concatenate([rows.numbers for rows, _ in self._fair]))

    def _keep(self, rows: _Rows, luck: np.ndarray) -> None:
        places = np.flatnonzero(luck <= np.uint64(self._bound - 1))
        rows = rows.taken(places)
        self._fair.append((rows, luck[places]))
        self._bytes += int(rows.frame.estimated_size())


class _Watches:
    """What has been seen of each column."""

    def __init__(
        self, target: str, task: Task | None, text: Set[str], max_categories: int, memory: int
    ) -> None:
        self.target = target
        self.task = task
        self.text = text
        self.max_categories = max_categories
        self.memory = memory
        self._watches: dict[str, _Watch] = {}

    def exceptions(self, rows: _Rows) -> np.ndarray:
        """Return the places of the rows in a chunk that a sample may not miss, in order."""
        places: set[int] = set()
        for column in rows.frame:
            if column.name not in self._watches:
                self._watches[column.name] = self._watch(column, rows.frame.width)
            places.update(self._watches[column.name].exceptions(column, rows.training))
        return np.array(sorted(places), np.int64)

    def missing(self) -> dict[str, int]:
        """Return how many values of each column were missing."""
        return {name: watch.missing for name, watch in self._watches.items()}

    def _watch(self, column: pl.Series, width: int) -> "_Watch":
        target, category = column.name == self.target, column.name in self.text
        if not target:
            most = self.max_categories + 1
        elif self.task == "regression":
            most = 0
        else:
            inferred = self.task is None and column.dtype.is_numeric()
            most = INFERRED if inferred else min(MOST_CLASSES, self.memory // (8 * width))
        return _Watch(most, target=target, category=category)


class _Watch:
    """What has been seen of a column, which tells the rows that a sample may not miss."""

    def __init__(self, most_values: int, *, target: bool, category: bool) -> None:
        self.most_values = most_values
        self.target = target
        self.category = category
        self.missing = 0
        self._kinds: set[str] = set()
        self._trained: set[object] = set()
        self._others: set[object] = set()
        self._first_number = np.nan

    def exceptions(self, column: pl.Series, training: np.ndarray) -> list[int]:
        """Return the places of the rows in a chunk that a sample may not miss."""
        places, gone = [], column.is_null().to_numpy()
        if is_text(column):
            places += self._new_kinds(column.cast(pl.String))
        elif column.dtype.is_numeric() or column.dtype.is_temporal() or column.dtype == pl.Boolean:
            numbers = column.to_physical().cast(pl.Float64).to_numpy()
            gone = np.isnan(numbers)
            places += self._new_numbers(numbers, training & ~gone)
            if self.target:
                places += self._first("fraction", ~gone & (numbers != np.round(numbers)))
        if is_text(column) or self.category or self.target:
            places += self._new_values(column, training, self._trained)
        if self.target:
            places += self._new_values(column, ~training, self._others)
            places += self._first("missing", gone)
        self.missing += int(gone.sum())
        return places

    def _first(self, kind: str, marked: np.ndarray) -> list[int]:
        if kind in self._kinds or not marked.any():
            return []
        self._kinds.add(kind)
        return [int(marked.argmax())]

    def _new_kinds(self, text: pl.Series) -> list[int]:
        """Look for the first text that is no number, no date, ...: the column is none of those."""
        places = []
        for kind, convert in CONVERSIONS.items():
            if kind not in self._kinds:
                other = convert(text).is_null() & text.is_not_null()
                places += self._first(kind, other.to_numpy())
        if "no commas" not in self._kinds:
            places += self._first("no commas", _holds(~text.str.contains(COMMAS)))
        if "no commas" not in self._kinds:
            places += self._first("comma", _holds(text.str.contains(",", literal=True)))
            places += self._first("certain", _holds(text.str.contains(CERTAIN)))
        return places

    def _new_numbers(self, numbers: np.ndarray, known: np.ndarray) -> list[int]:
        """Look for the first number, and for one that differs: then the column is not constant."""
        places = self._first("known", known)
        for place in places:
            self._first_number = numbers[place]
        return places + self._first("another", known & (numbers != self._first_number))

    def _new_values(self, column: pl.Series, part: np.ndarray, known: set[object]) -> list[int]:
        if len(known) > self.most_values or column.dtype.is_nested():
            return []
        rows = np.flatnonzero(part)
        column = column[rows]
        places = []
        for place in column.arg_unique().sort():
            if column[place] not in known:
                known.add(column[place])
                places.append(int(rows[place]))
            if len(known) > self.most_values:
                break
        return places


def _holds(marked: pl.Series) -> np.ndarray:
    return marked.fill_null(False).to_numpy()
