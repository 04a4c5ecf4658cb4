"""Means of a loss while it is measured, and metrics as JSON lines and CSV."""

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from steepest.errors import CheckpointError
from steepest.train.files.whole import open_plain, why_unwritten, write_bytes

PENDING = 100
MOST_OF_A_ROW = 2**24  # bytes; a row tells two numbers of each parameter


class Mean:
    """The mean of a number over batches, weighted by their rows.

    On the CPU a number is read at once (0.1 microseconds). Reading one from an accelerator waits
    for all the work before it, so there the numbers stay on the device until `read`, or until
    100 of them have come together.
    """

    __slots__ = ("_pending", "rows", "total")

    def __init__(self, total: float = 0.0, rows: int = 0) -> None:
        self.total = total
        self.rows = rows
        self._pending: list[tuple[Tensor, int]] = []

    def add(self, value: Tensor | float, rows: int) -> None:
        """Add the mean over a batch of so many rows."""
        self.rows += rows
        if not isinstance(value, Tensor):
            self.total += float(value) * rows
        elif value.is_cpu:
            self.total += value.item() * rows
        else:
            self._pending.append((value.detach(), rows))
            if len(self._pending) >= PENDING:
                self.read()

    def read(self) -> float:
        """Return the mean so far; NaN before the first batch."""
        for value, rows in self._pending:
            self.total += value.item() * rows
        self._pending.clear()
        return self.total / self.rows if self.rows else math.nan


class MetricsFile:
    """Write rows as JSON lines, and as CSV beside them; a row may wait for the next `flush`.

    A file from before is continued after so many rows: those beyond, or torn by a crash, are cut
    off, and the CSV is made again of what is left.

    Args:
        path: of the JSON lines; the CSV has its name and the suffix .csv.
        columns: what of a row the CSV shows.
        rows: how many rows of an earlier file to keep.

    Raises:
        CheckpointError: a file cannot be opened.
    """

    def __init__(self, path: Path | str, columns: Sequence[str] = (), rows: int = 0) -> None:
        path = Path(path)
        self.columns = list(columns)
        try:
            path.touch()
            kept = list(islice(_whole_lines(path), rows))
            self._json = path.open("r+b", buffering=0)  # what a full disk refuses is gone
            self._json.truncate(sum(len(line) for line, _ in kept))
            self._json.seek(0, os.SEEK_END)
            lines = [self._csv_line(row) for _, row in kept]
            text = b"".join([self._csv_line(), *lines])
            write_bytes(path.with_suffix(".csv"), text)
            self._csv = path.with_suffix(".csv").open("ab", buffering=0)
        except OSError as error:
            reason = error.strerror or str(error)
            raise CheckpointError(f"{path} could not be opened: {reason}; choose another") from None
        self.rows = len(kept)
        self._waiting: list[Mapping[str, Any]] = []

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row; a number that is not finite is left out: JSON has none."""
        self._waiting.append(finite(row))  # a copy: a row may come to tell of more
        self.rows += 1

    def flush(self) -> None:
        """Write the rows that wait.

        Raises:
            CheckpointError: the disk is full, or gone; the last row may be torn.
        """
        rows, self._waiting = self._waiting, []
        if rows:
            lines = [json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows]
            _append(self._json, b"".join(lines))
            _append(self._csv, b"".join(map(self._csv_line, rows)))

    def sync(self) -> None:
        """Wait until all rows are on disk."""
        self.flush()
        os.fsync(self._json.fileno())

    def close(self) -> None:
        """Close the files; what a full disk refuses has been told of."""
        with suppress(CheckpointError):
            self.flush()
        self._json.close()
        self._csv.close()

    def _csv_line(self, row: Mapping[str, Any] | None = None) -> bytes:
        """Return a row's values, or the names of the columns."""
        text = io.StringIO()
        values = self.columns if row is None else [row.get(name) for name in self.columns]
        csv.writer(text, lineterminator="\n").writerow(values)
        return text.getvalue().encode()


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """Return the rows of a metrics file, up to the first line that is torn."""
    return [row for _, row in _whole_lines(Path(path))]


def rows_of(target: Any) -> int:
    """Count a batch's rows by its target; one number is one row."""
    try:
        return target.shape[0]  # 0.1 microseconds; len(target) takes 0.3
    except AttributeError:
        return len(target) if isinstance(target, Sized) else 1
    except IndexError:
        return 1


def _whole_lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    try:
        file = io.BufferedReader(cast(io.RawIOBase, open_plain(path)))
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None
    with file:
        while line := file.readline(MOST_OF_A_ROW):
            try:
                row = json.loads(line) if line.endswith(b"\n") else None
            except (ValueError, RecursionError):
                return
            if not isinstance(row, dict):
                return
            yield line, row


def _append(file: io.FileIO, content: bytes) -> None:
    try:
        while content:
            content = content[file.write(content) :]
    except OSError as error:
        raise CheckpointError(why_unwritten(Path(file.name), error)) from error


def finite(value: Any) -> Any:
    """Return a tree of plain values with None for each number that is not finite."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
