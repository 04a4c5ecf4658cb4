"""NumPy arrays and pandas frames -> polars frames."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from steepest.data.claims import check_claims
from steepest.errors import DataError


def read_arrays(path: Path) -> pl.DataFrame:
    """Read the arrays of a .npz file, or the one of a .npy file, as columns.

    A one-dimensional array is a column named by its key, a two-dimensional one `(n, d)` the
    columns key0, key1, ...; the array of a .npy file has the key x.

    Raises:
        DataError: the file is damaged, claims more than it can hold or the machine's memory, or
            holds Python objects; or an array is no column.
    """
    try:
        with path.open("rb") as file:
            check_claims(file)
            # Never unpickle: an object array would run code from the file.
            arrays = np.load(file, allow_pickle=False)
            alone = isinstance(arrays, np.ndarray)
            named = {"x": arrays} if alone else {k: arrays[k] for k in arrays.files}
    except Exception as error:  # a damaged archive fails in a dozen ways
        kind = f"{path.suffix} file"
        if "pickle" in str(error):
            reason = f"no {kind}, or it holds Python objects, which are never unpickled"
        else:
            reason = f"damaged or no {kind}: {error}"
        raise DataError(f"{path} cannot be read: {reason}") from error
    return _joined(path, [c for key, array in named.items() for c in _columns(path, key, array)])


def is_pandas(source: object) -> bool:
    """Say whether it is a pandas frame, without importing pandas."""
    kind = type(source)
    return kind.__name__ == "DataFrame" and kind.__module__.partition(".")[0] == "pandas"


def from_pandas(frame: Any) -> pl.DataFrame:
    """Return a pandas frame's columns; its index is no column.

    Raises:
        DataError: two columns have the same name, or one holds what polars has no type for.
    """
    names = [str(name) for name in frame.columns]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise DataError(f"a frame names two columns {name!r}: column names are all different")
    return pl.DataFrame([_series(n, frame.iloc[:, i]) for i, n in enumerate(names)])


def _series(name: str, column: Any) -> pl.Series:
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biufmM":
        return pl.Series(name, column.to_numpy())
    # Text, categories, pandas' own nullable types and time zones: value by value.
    values = column.astype(object).where(column.notna(), None).tolist()
    try:
        return pl.Series(name, values, strict=True)
    except (TypeError, pl.exceptions.PolarsError) as error:
        kinds = sorted({type(value).__name__ for value in values if value is not None})
        raise DataError(
            f"column {name!r} of the frame holds values of several types, {', '.join(kinds)}: a "
            f"column holds values of one"
        ) from error


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
    if array.ndim == 2 and not len(array):  # of any number of columns, which cost its file nothing
        return [(key, array.reshape(0))]
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
