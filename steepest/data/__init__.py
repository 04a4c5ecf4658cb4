"""Files and arrays -> tensors -> batches."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from steepest.data import synthetic
from steepest.data.batches import Batches
from steepest.data.loader import DataLoader

if TYPE_CHECKING:
    from steepest.data.stream import Stream
    from steepest.data.streamed import StreamedTable, is_large, stream_table
    from steepest.data.tables import Table, Task, Transform, load_table, read_table

__all__ = [
    "Batches",
    "DataLoader",
    "Stream",
    "StreamedTable",
    "Table",
    "Task",
    "Transform",
    "is_large",
    "load_table",
    "read_table",
    "stream_table",
    "synthetic",
]

# polars takes 0.2 seconds to import, which a loop over tensors need not wait for.
LATER = {
    "Stream": "stream",
    "StreamedTable": "streamed",
    "Table": "tables",
    "Task": "tables",
    "Transform": "tables",
    "is_large": "streamed",
    "load_table": "tables",
    "read_table": "tables",
    "stream_table": "streamed",
}


def __getattr__(name: str) -> Any:
    if name in LATER:
        return getattr(import_module(f"steepest.data.{LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
