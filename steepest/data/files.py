"""A file, a folder of them, or a frame -> polars frames with typed columns."""

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl

from steepest.data.arrays import from_pandas, is_pandas, read_arrays
from steepest.data.delimited import read_delimited
from steepest.data.typed import converted, dates, typed
from steepest.errors import DataError, nearest

SLICED = 128 * 2**20  # bytes of a file of which polars' reading ahead takes too much memory
JSON = "file of JSON lines"
CHUNK_CELLS = 2**21  # values in a frame of `chunks`, 16 MiB as float64

Source = Any
"""What a table is read from: a path, a polars frame or a pandas frame."""


def read_table(source: Source, text: Collection[str] = ()) -> pl.DataFrame:
    """Read a table as one polars frame with typed columns.

    The source is a path of a .csv, .tsv, .parquet, .arrow, .feather, .ipc, .jsonl, .ndjson, .npz
    or .npy file, a folder of .parquet files, or a frame of polars or pandas.

    CSV: the first line names the columns; fields are separated by commas, semicolons or tabs,
    whichever the first line has most of. A column holds whole numbers, numbers, booleans
    (true, false) or ISO dates if all its values do, and text otherwise. An empty field, `?`, `NA`,
    `NaN`, `null` and the like are missing values; a line without any value is no row. Columns
    named in `text` are left as text, leading zeros and all.

    JSON lines: an object per line, and texts that are ISO dates, all of a column, are dates.

    npz, npy: a one-dimensional array is a column named by its key, a two-dimensional one `(n, d)`
    the columns key0, key1, ... So a file with `x` `(n, 2)` and `y` `(n,)` has columns x0, x1, y.

    Raises:
        DataError: the file is missing, empty, damaged, not of these kinds, or has no rows.
    """
    frames = list(chunks(source, text))
    if again := mixed(frame.schema for frame in frames):
        frames = list(chunks(source, {*text, *again}))
    if not any(frame.height for frame in frames):
        raise no_rows(source)
    return with_types(pl.concat(frames, how="vertical_relaxed"), source, text)


def chunks(
    source: Source, text: Collection[str] = (), *, every_row: bool = False
) -> Iterator[pl.DataFrame]:
    """Hand out a table's rows in frames of some MiB, in order, all with the same columns.

    Of CSV a column is typed in each frame by itself, and dates are texts: see `mixed`. A line of
    nothing but separators is a row of `every_row`, and none otherwise.

    Raises:
        DataError: as `read_table`; a fault inside a file when its place is reached.
    """
    if isinstance(source, pl.DataFrame):
        return _slices(source)
    if is_pandas(source):
        return _slices(from_pandas(source))
    if not isinstance(source, str | Path):
        raise DataError(
            f"a table is a path, a polars frame or a pandas frame: got {type(source).__name__}"
        )
    path = Path(source)
    _check_path(path)
    reader = READERS[".parquet" if path.is_dir() else path.suffix.lower()]
    if reader is read_delimited:
        return read_delimited(path, text, every_row=every_row)
    return reader(path, text)


def mixed(schemas: Iterable[pl.Schema]) -> set[str]:
    """Return the columns that are of several kinds (numbers, booleans, texts): all texts, then."""
    kinds: dict[str, str] = {}
    found = set()
    for schema in schemas:
        for name, dtype in schema.items():
            if dtype != pl.Null:
                kind = "number" if dtype.is_numeric() else str(dtype)
                if kinds.setdefault(name, kind) != kind:
                    found.add(name)
    return found


def with_types(frame: pl.DataFrame, source: Source, text: Collection[str] = ()) -> pl.DataFrame:
    """Return a whole table with types for its columns of text, where the file cannot tell them."""
    if not isinstance(source, str | Path):
        return frame
    kind = Path(source).suffix.lower()
    texts = [column for column in frame if column.dtype == pl.String and column.name not in text]
    if kind in (".csv", ".tsv"):
        return frame.with_columns(map(typed, texts))
    if kind in (".jsonl", ".ndjson"):
        told = (converted(column, dates) for column in texts)
        return frame.with_columns(column for column in told if column is not None)
    return frame


def no_rows(source: Source) -> DataError:
    """Return the error for a table without rows."""
    return DataError(f"{label(source)} has column names and no rows: a table needs a row or more")


def label(source: Source) -> str:
    """Return what messages call a table."""
    return str(source) if isinstance(source, str | Path) else "the frame"


def _check_path(path: Path) -> None:
    if path.is_dir():
        if not _parquet_files(path):
            raise DataError(
                f"{path} is a folder without .parquet files: give one with them, or the path of a "
                f"file, {_extensions()}"
            )
        return
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.glob("*")])
        raise DataError(f"there is no file {path}{near}: give the path of a table")
    if path.suffix.lower() not in READERS:
        kind = f"the extension {path.suffix!r}" if path.suffix else "no extension"
        raise DataError(f"{path} has {kind}: a table is {_extensions()}")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if empty:
        raise DataError(f"{path} is empty: a table has column names and rows")


def _extensions() -> str:
    *first, last = READERS
    return f"{', '.join(first)} or {last}"


def _parquet_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.parquet") if path.is_file())


def _slices(frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    return frame.iter_slices(max(1, CHUNK_CELLS // max(1, frame.width)))


def _scanned(
    scan: Callable[..., pl.LazyFrame], kind: str
) -> Callable[[Path, Collection[str]], Iterator[pl.DataFrame]]:
    """Return a reader of files that polars reads in pieces by itself."""

    def read(path: Path, text: Collection[str]) -> Iterator[pl.DataFrame]:
        try:
            table = scan(path)
            width = len(table.collect_schema())
            rows = max(1, CHUNK_CELLS // max(1, width))
            empty = table.head(0).collect()
            none = True
            for frame in _pieces(table, rows, sliced=kind != JSON and _size(path) > SLICED):
                none = False
                yield frame
            if none:
                yield empty
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise DataError(f"{path} is damaged or no {kind}: {reason}") from error

    return read


def _pieces(table: pl.LazyFrame, rows: int, *, sliced: bool) -> Iterator[pl.DataFrame]:
    """Hand out a table's rows in frames; `sliced`, slower and in memory that is bounded.

    By itself polars reads ahead, some row groups for each processor.
    """
    if not sliced:
        yield from table.collect_batches(chunk_size=rows, maintain_order=True)
        return
    for low in count(0, rows):
        frame = table.slice(low, rows).collect(engine="streaming")
        if frame.height:
            yield frame
        if frame.height < rows:
            return


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in (_parquet_files(path) if path.is_dir() else [path]))


def _scan_parquet(path: Path) -> pl.LazyFrame:
    return pl.scan_parquet(_parquet_files(path) if path.is_dir() else path, glob=False)


def _scan_json(path: Path) -> pl.LazyFrame:
    return pl.scan_ndjson(path, infer_schema_length=None)


def _read_arrays(path: Path, text: Collection[str]) -> Iterator[pl.DataFrame]:
    return _slices(read_arrays(path))


Reader = Callable[[Path, Collection[str]], Iterator[pl.DataFrame]]
READERS: dict[str, Reader] = {
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".parquet": _scanned(_scan_parquet, "Parquet file"),
    **dict.fromkeys((".arrow", ".feather", ".ipc"), _scanned(pl.scan_ipc, "Arrow file")),
    **dict.fromkeys((".jsonl", ".ndjson"), _scanned(_scan_json, JSON)),
    ".npz": _read_arrays,
    ".npy": _read_arrays,
}
