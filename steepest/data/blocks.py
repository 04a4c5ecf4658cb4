"""Rows on disk in blocks of equal size, each an Arrow record batch that is mapped into memory.

The file has no name from the moment it is made: nobody meets it half written, and the system
frees it when the process ends, however it ends.
"""

import io
import struct
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from steepest.errors import DataError
from steepest.figures import counted

ALIGNMENT = 64  # bytes, of the buffers in what polars writes


@dataclass(frozen=True)
class Field:
    """One array of a row: its dtype, and its shape, `()` or `(width,)`."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * prod(self.shape)


@dataclass(frozen=True)
class Blocks:
    """Rows in a file, `block_rows` in each block and fewer in the last one."""

    file: IO[bytes]
    columns: tuple[Field, ...]
    block_rows: int
    rows: int
    places: tuple[int, ...]
    """Where the numbers of each block begin in the file, in bytes."""

    def __len__(self) -> int:
        """Count the blocks."""
        return len(self.places)

    @property
    def row_bytes(self) -> int:
        """The bytes of a row."""
        return sum(column.row_bytes for column in self.columns)

    def height(self, block: int) -> int:
        """Return the number of rows of a block."""
        return min(self.block_rows, self.rows - block * self.block_rows)

    def map(self, block: int) -> list[Tensor]:
        """Return a block's tensors `(rows, ...)`, which the system reads from disk when touched.

        What is written to them stays in memory.
        """
        return [torch.from_numpy(array) for array in self._mapped(block, "c")]

    def standardise(self, column: int, mean: np.ndarray, std: np.ndarray) -> None:
        """Subtract `mean` and divide by `std` `(width,)`, in the file."""
        for block in range(len(self)):
            array = self._mapped(block, "r+")[column]
            array -= mean.astype(array.dtype)
            array /= std.astype(array.dtype)

    def _mapped(self, block: int, mode: Literal["c", "r+"]) -> list[np.ndarray]:
        rows, begin = self.height(block), self.places[block]
        arrays = []
        for column in self.columns:
            shape = (rows, *column.shape)
            arrays.append(np.memmap(self.file, column.dtype, mode, begin, shape))
            begin += _padded(arrays[-1].nbytes)
        return arrays

    def buffer(self, blocks: int, device: torch.device) -> list[Tensor]:
        """Return tensors with room for so many blocks."""
        rows = blocks * self.block_rows
        return [
            torch.empty((rows, *column.shape), dtype=_torchs(column.dtype), device=device)
            for column in self.columns
        ]

    def read(self, blocks: Sequence[int], buffer: list[Tensor]) -> list[Tensor]:
        """Copy blocks to the buffer, one below the other; return the part that they fill."""
        low = 0
        for block in blocks:
            high = low + self.height(block)
            for tensor, part in zip(buffer, self.map(block), strict=True):
                tensor[low:high].copy_(part)
            low = high
        return [tensor[:low] for tensor in buffer]


class BlockWriter:
    """Write rows to disk as they come.

    The file lies in `folder`, which is made if it is missing.

    Raises:
        DataError: the folder or the file cannot be written.
    """

    def __init__(self, folder: Path, columns: Sequence[Field], block_rows: int) -> None:
        self.folder = folder
        self.columns = tuple(columns)
        self.rows = 0
        self._block = [np.empty((block_rows, *c.shape), c.dtype) for c in columns]
        self._height = 0
        self._places: list[int] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Without a buffer of Python's, which would try once more to write when it is dropped.
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  (kept)
        except OSError as error:
            raise self._refused(error) from error
        self._closing = weakref.finalize(self, self._file.close)

    def add(self, *arrays: np.ndarray) -> None:
        """Append rows, an array for each column.

        Raises:
            DataError: they cannot be written.
        """
        low, rows = 0, len(arrays[0])
        while low < rows:
            high = min(rows, low + len(self._block[0]) - self._height)
            end = self._height + high - low
            for block, array in zip(self._block, arrays, strict=True):
                block[self._height : end] = array[low:high]
            self._height, low = end, high
            if end == len(self._block[0]):
                self._write()

    def close(self) -> Blocks:
        """Write the last rows; return all.

        Raises:
            DataError: they cannot be written.
        """
        if self._height:
            self._write()
        height = len(self._block[0])
        blocks = Blocks(self._file, self.columns, height, self.rows, tuple(self._places))
        self._closing.detach()
        weakref.finalize(blocks, self._file.close)
        return blocks

    def _write(self) -> None:
        arrow = io.BytesIO()
        columns = [pl.Series(str(i), b[: self._height]) for i, b in enumerate(self._block)]
        pl.DataFrame(columns).write_ipc_stream(arrow)
        left = arrow.getbuffer()
        try:
            self._places.append(self._file.tell() + _numbers_begin(left))
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._refused(error) from error
        self.rows += self._height
        self._height = 0

    def _refused(self, error: OSError) -> DataError:
        return DataError(
            f"a table that is streamed is written to {self.folder} first, which failed after "
            f"{counted(self.rows, 'row')} ({error.strerror}): free space there, or "
            f"choose another folder"
        )


def _numbers_begin(arrow: memoryview) -> int:
    """Return where the columns' numbers begin in an Arrow stream of one record batch.

    They follow two messages, the schema's and the batch's, each a marker, a length and so many
    bytes (Arrow columnar format, "Encapsulated message format").
    """
    place = 0
    for _ in ("schema", "record batch"):
        marker, length = struct.unpack_from("<iI", arrow, place)
        assert marker == -1
        place += 8 + length
    return place


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _torchs(dtype: np.dtype) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype
