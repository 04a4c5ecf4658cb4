"""Means of a loss while it is measured, and metrics as JSON lines."""

import json
import math
from collections.abc import Iterable, Mapping, Sized
from pathlib import Path
from typing import Any

from torch import Tensor

from steepest.errors import CheckpointError

PENDING = 100


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
    """Write metrics as JSON lines, each on disk's way as soon as it is written.

    A file from before is continued: lines beyond `step`, or torn by a crash, are cut off.
    """

    def __init__(self, path: Path | str, step: int = 0) -> None:
        path = Path(path)
        try:
            path.touch()
            keep = sum(len(line) for line, _ in _whole_lines(path, step))
            self._file = path.open("r+b")
        except OSError as error:
            reason = error.strerror or str(error)
            raise CheckpointError(f"{path} could not be opened: {reason}; choose another") from None
        self._file.seek(keep)
        self._file.truncate()

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one line; a number that is not finite becomes null, as JSON has none."""
        plain = {key: _plain(value) for key, value in row.items()}
        self._file.write(json.dumps(plain, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


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


def _whole_lines(path: Path, step: float = math.inf) -> Iterable[tuple[bytes, dict[str, Any]]]:
    with path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                return
            if not isinstance(row, dict) or row.get("step", 0) > step:
                return
            yield line, row


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
