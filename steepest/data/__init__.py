"""Files and arrays -> tensors -> batches."""

from typing import TYPE_CHECKING, Any

from steepest.data import synthetic
from steepest.data.batches import Batches

if TYPE_CHECKING:
    from steepest.data.tables import Table, load_table, read_table

__all__ = ["Batches", "Table", "load_table", "read_table", "synthetic"]


def __getattr__(name: str) -> Any:
    # polars takes 0.2 seconds to import, which a loop over tensors need not wait for.
    if name in ("Table", "load_table", "read_table"):
        from steepest.data import tables

        return getattr(tables, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
