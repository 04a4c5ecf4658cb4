"""A file -> a polars DataFrame with typed columns."""

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from steepest.errors import DataError, nearest

# What people write for "no value"; an empty field means the same.
MISSING = ("", "?", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None")
DATES = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f", "%+")


def read_table(path: str | Path) -> pl.DataFrame:
    """Read a table from a `.csv`, `.tsv`, `.parquet` or `.npz` file.

    CSV: the first line names the columns; fields are separated by commas, semicolons or tabs,
    whichever the first line has most of. A column holds whole numbers, numbers, booleans
    (true, false) or ISO dates if all its values do, and text otherwise. An empty field, `?`, `NA`,
    `NaN`, `null` and the like are missing values; a line without any value is no row.

    npz: a one-dimensional array is a column named by its key, a two-dimensional one `(n, d)` the
    columns key0, key1, ... So a file with `x` `(n, 2)` and `y` `(n,)` has columns x0, x1 and y.

    Raises:
        DataError: the file is missing, empty, damaged, not of these kinds, or has no rows.
    """
    path = Path(path)
    _check_file(path)
    frame = READERS[path.suffix.lower()](path)
    if frame.height == 0:
        raise DataError(f"{path} has column names and no rows: a table needs at least one row")
    return frame


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"{path} is a folder: give the path of a file, {_extensions()}")
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


def _read_csv(path: Path) -> pl.DataFrame:
    names, separator = _header(path)
    try:
        # Everything as text: which texts are numbers is decided by `_typed` over whole columns.
        frame = pl.read_csv(path, separator=separator, infer_schema=False, glob=False)
    except pl.exceptions.PolarsError as error:
        raise DataError(_csv_fault(path, len(names), separator)) from error
    if frame.width != len(names) or _has_short_row(frame, path, separator):
        raise DataError(_csv_fault(path, len(names), separator))
    frame.columns = names
    frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))
    return frame.select(_typed(column) for column in frame)


def _header(path: Path) -> tuple[list[str], str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            separator = max(",;\t", key=re.sub('"[^"]*"', "", file.readline()).count)
            file.seek(0)
            names = [name.strip() for name in next(csv.reader(file, delimiter=separator), [])]
    except UnicodeDecodeError as error:
        raise DataError(_not_utf8(path, error)) from error
    except csv.Error as error:
        raise DataError(f"{path} does not begin with column names: {error}") from error
    if not any(names):
        raise DataError(f"{path} begins with an empty line: its first line names the columns")
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{path} names two columns {name!r}: column names are all different")
    return names, separator


def _has_short_row(frame: pl.DataFrame, path: Path, separator: str) -> bool:
    """Say whether a line lacks fields, which polars fills in silently."""
    if frame.to_series(-1).null_count() == 0:
        return False
    try:
        return any(True for _ in _ragged(path, frame.width, separator))
    except csv.Error:  # a field longer than the csv module's own limit, which is no fault
        return False


def _ragged(path: Path, width: int, separator: str) -> Iterator[tuple[int, int]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=separator)
        for row in rows:
            if row and len(row) != width:
                yield rows.line_num, len(row)


def _csv_fault(path: Path, width: int, separator: str) -> str:
    """Say in one sentence what is wrong with a CSV file that polars refused."""
    try:
        for line, count in _ragged(path, width, separator):
            return (
                f"{path}, line {line} has {count} fields where the first line names {width} "
                f"columns: every line has the same number of fields"
            )
    except UnicodeDecodeError as error:
        return _not_utf8(path, error)
    except csv.Error as error:
        return f"{path} is not a CSV file: {error}"
    return (
        f"{path} is not a CSV file, perhaps because of a stray quotation mark: a field that holds "
        f"one stands in quotation marks and has it doubled"
    )


def _not_utf8(path: Path, error: UnicodeDecodeError) -> str:
    byte = error.object[error.start]
    return f"{path} is not UTF-8 text (it has the byte 0x{byte:02x}): save it as UTF-8"


def _typed(column: pl.Series) -> pl.Series:
    """Return a column of texts as whole numbers, numbers, booleans or dates if all of them are."""
    text = column.str.strip_chars()
    text = text.set(text.is_in(MISSING), None)
    for convert in CONVERSIONS:
        values = convert(text)
        if values.null_count() == text.null_count():
            return values
    return text


def _booleans(text: pl.Series) -> pl.Series:
    return text.str.to_lowercase().replace_strict(
        {"true": True, "false": False}, default=None, return_dtype=pl.Boolean
    )


def _dates(text: pl.Series) -> pl.Series:
    spaced = text.str.replace("T", " ", literal=True)
    tried = [
        (text if form == "%+" else spaced).str.to_datetime(form, strict=False) for form in DATES
    ]
    return min(tried, key=pl.Series.null_count)


CONVERSIONS: tuple[Callable[[pl.Series], pl.Series], ...] = (
    lambda text: text.cast(pl.Int64, strict=False),
    lambda text: text.cast(pl.Float64, strict=False),
    _booleans,
    _dates,
)


def _read_parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path} is damaged or no Parquet file: {reason}") from error


def _read_npz(path: Path) -> pl.DataFrame:
    try:
        with path.open("rb") as file:
            # Never unpickle: an object array would run code from the file.
            arrays = np.load(file, allow_pickle=False)
            named = {} if isinstance(arrays, np.ndarray) else {k: arrays[k] for k in arrays.files}
    except Exception as error:  # a damaged archive fails in a dozen ways
        if "pickle" in str(error):
            reason = "no .npz file, or it holds Python objects, which are never unpickled"
        else:
            reason = f"damaged or no .npz file: {error}"
        raise DataError(f"{path} cannot be read: {reason}") from error
    return _joined(path, [c for key, array in named.items() for c in _columns(path, key, array)])


def _columns(path: Path, key: str, array: np.ndarray) -> list[tuple[str, np.ndarray]]:
    if array.dtype.kind not in "biufUM":
        raise DataError(
            f"{path}: array {key!r} has dtype {array.dtype}: a column holds numbers, booleans, "
            f"text or dates"
        )
    if array.dtype.kind == "M":
        array = array.astype("datetime64[us]")
    if array.ndim == 1:
        return [(key, array)]
    if array.ndim == 2:
        return [(f"{key}{i}", array[:, i]) for i in range(array.shape[1])]
    raise DataError(
        f"{path}: array {key!r} has shape {array.shape}: a column has shape (n,), a group of "
        f"columns (n, d)"
    )


def _joined(path: Path, columns: list[tuple[str, np.ndarray]]) -> pl.DataFrame:
    lengths = {name: len(array) for name, array in columns}
    if len(lengths) < len(columns):
        raise DataError(f"{path} gives two columns the same name: rename one of its arrays")
    if not columns:
        raise DataError(f"{path} holds no named array: save one per column with numpy.savez")
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in list(lengths.items())[:10])
        raise DataError(f"{path} has columns of different lengths: {shown}")
    return pl.DataFrame(dict(columns))


READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".npz": _read_npz,
}
