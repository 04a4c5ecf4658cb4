"""A whole table in little memory, from which rows can be taken away piece by piece.

Numbers lie in anonymous maps of memory, one for each chunk that was read: such a map goes back to
the system the moment that it is dropped, where an allocator would keep it for later. So while a
table turns into tensors, chunk by chunk, it shrinks by as much as they grow.
"""

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from mmap import ACCESS_COPY, mmap

import numpy as np
import polars as pl

from steepest.data.files import Source, chunks, mixed, no_rows, with_types


@dataclass(frozen=True, eq=False)
class _Chunk:
    rows: int
    names: dict[str, int]  # column of numbers -> its place in `numbers`
    numbers: np.ndarray  # (columns of numbers, rows), NaN where missing


class Gathered:
    """The columns of a table: numbers as float64, NaN where missing, the others as polars has them.

    Raises:
        DataError: see `read_table`.
    """

    def __init__(self, source: Source, text: Collection[str] = ()) -> None:
        again = self._read(source, text, frozenset())
        if again:  # columns that hold texts after all, of which only some looked like numbers
            self._read(source, text, again)
        if self.height == 0:
            raise no_rows(source)

    def __getitem__(self, name: str) -> pl.Series:
        """Return a column, as a copy if it holds numbers."""
        if name in self._other:
            return self._others[name]
        return pl.Series(name, np.concatenate([_numbers(chunk, name) for chunk in self._chunks]))

    def frames(self) -> Iterator[pl.DataFrame]:
        """Hand out the table's rows in order, and forget them: afterwards it is empty."""
        first = 0
        while self._chunks:
            chunk = self._chunks.popleft()
            others = self._others[first : first + chunk.rows]
            first += chunk.rows
            yield pl.DataFrame(
                [
                    others[name] if name in self._other else pl.Series(name, _numbers(chunk, name))
                    for name in self.columns
                ]
            )

    def _read(self, source: Source, text: Collection[str], again: Collection[str]) -> set[str]:
        """Read the table; return the columns that are numbers in one chunk and texts in another.

        Those of `again` are read as texts, and typed when all of them are known.
        """
        self._chunks: deque[_Chunk] = deque()
        self.columns: list[str] = []
        others, schemas = [], []
        for frame in chunks(source, {*text, *again}):
            self.columns = frame.columns
            schemas.append(frame.schema)
            numbers = frame.select(c for c in frame if c.dtype.is_numeric())
            others.append(frame.drop(numbers.columns))
            self._chunks.append(_stored(numbers, frame.height))
        self.height = sum(chunk.rows for chunk in self._chunks)
        if several := mixed(schemas):
            return several
        numeric = {name for chunk in self._chunks for name in chunk.names}
        others = [frame.drop(numeric, strict=False) for frame in others]
        self._others = pl.concat(others, how="vertical_relaxed") if others else pl.DataFrame()
        self._others = with_types(self._others, source, text)
        self._other = frozenset(self._others.columns)
        return set()


def _stored(frame: pl.DataFrame, rows: int) -> _Chunk:
    names = {name: place for place, name in enumerate(frame.columns)}
    size = rows * frame.width
    memory = mmap(-1, max(1, size * 8), access=ACCESS_COPY)
    numbers = np.frombuffer(memory, np.float64, size).reshape(frame.width, rows)
    for place, column in enumerate(frame):
        numbers[place] = column.cast(pl.Float64).to_numpy()
    return _Chunk(rows, names, numbers)


def _numbers(chunk: _Chunk, name: str) -> np.ndarray:
    place = chunk.names.get(name)
    return np.full(chunk.rows, np.nan) if place is None else chunk.numbers[place]
