"""Stream a table that is several times larger than the memory that it may take; show that it holds.

    python bench/stream.py                        prints the table, writes results/stream.json
    python bench/stream.py --kind parquet --rows 1000000 --no-write

A file of numbers with a text column is made first, in a process of its own. Then, in one process,
`stream_table` reads it, and two epochs are handed out. Beside each part stands the anonymous memory
of the process (RssAnon of /proc/self/status, seen each 2 milliseconds) beyond what it had before,
and the bound that was given. At the end the same rows are handed out by `Batches` from memory.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
import polars as pl
import torch
from record import save

from steepest.data import Batches, Stream
from steepest.data.streamed import stream_table

MIB = 2**20
NUMBERS = 19


class Peak:
    """The most anonymous memory of the process while inside, in bytes beyond `before`."""

    def __init__(self, before: int) -> None:
        self.before = before
        self.bytes = 0

    def __enter__(self) -> "Peak":
        self._inside = True
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        self._begin = perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = perf_counter() - self._begin
        self._inside = False
        self._thread.join()

    def _look(self) -> None:
        while self._inside:
            self.bytes = max(self.bytes, anonymous() - self.before)
            sleep(0.002)


def anonymous() -> int:
    """Return the process's anonymous memory in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise OSError("the system does not tell anonymous memory: Linux does")


def make_file(path: Path, rows: int) -> None:
    """Write 19 columns of numbers, one of text and a target."""
    rng = np.random.default_rng(0)
    parts = []
    for first in range(0, rows, 250_000):
        n = min(250_000, rows - first)
        x = rng.normal(size=(n, NUMBERS)).round(6)
        names = [f"x{i}" for i in range(NUMBERS)]
        frame = pl.DataFrame(x, schema=names).with_columns(
            pl.Series("color", rng.choice(["red", "green", "blue"], n)),
            pl.Series("y", (x[:, 0] * x[:, 1] + x[:, 2]).round(6)),
        )
        if path.suffix == ".csv":
            with path.open("ab") as file:
                frame.write_csv(file, include_header=first == 0)
        else:
            parts.append(frame)
    if parts:
        pl.concat(parts).write_parquet(path)


def handed_out(epoch: Iterable[tuple[torch.Tensor, ...]]) -> int:
    """Count the rows of an epoch."""
    return sum(len(x) for x, _ in epoch)


def measure(path: Path, folder: Path, memory: int, batch_size: int) -> dict[str, Any]:
    """Stream the file; return times and peaks."""
    torch.set_num_threads(1)
    before = anonymous()
    with Peak(before) as reading:
        table = stream_table(path, target="y", folder=folder, memory=memory)
    stream = Stream(table.train, batch_size=batch_size, memory=memory)
    rates = []
    with Peak(before) as epochs:
        for n in range(3):
            begin = perf_counter()
            rows = handed_out(stream.epoch(n))
            rates.append(rows / (perf_counter() - begin))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    x, y = (torch.cat(t) for t in zip(*Stream(table.train, shuffle=False).epoch(0), strict=True))
    batches = Batches(x, y, batch_size=batch_size)
    in_memory = []
    for n in range(3):
        begin = perf_counter()
        in_memory.append(handed_out(batches.epoch(n)) / (perf_counter() - begin))
    return {
        "file_bytes": path.stat().st_size,
        "number_bytes": table.transform.rows * table.train.row_bytes,
        "rows": table.transform.rows,
        "memory": memory,
        "peak_reading": reading.bytes,
        "peak_epochs": epochs.bytes,
        "peak_resident": most,
        "before": before,
        "seconds_reading": round(reading.seconds, 2),
        "batch_size": batch_size,
        "rows_per_second": round(max(rates)),
        "rows_per_second_in_memory": round(max(in_memory)),
    }


def main() -> None:
    """Make the file, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", type=int, default=128, help="the bound, in MiB")
    parser.add_argument("--rows", type=int, default=8_000_000)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--kind", choices=["csv", "parquet"], default="csv")
    parser.add_argument("--folder", type=Path, help="where to write; left out, a temporary one")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    if options.make:
        make_file(options.make, options.rows)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / f"table.{options.kind}"
        made = [sys.executable, __file__, "--make", str(path), "--rows", str(options.rows)]
        subprocess.run(made, check=True)
        found = measure(path, Path(folder), options.memory * MIB, options.batch_size)
    show(found)
    if not options.no_write:
        save("stream", found, ["polars"])


def show(found: dict[str, Any]) -> None:
    """Print what was found."""
    memory = found["memory"]
    for name, size in (
        ("the file", found["file_bytes"]),
        ("its numbers as float32", found["number_bytes"]),
        ("bound", memory),
        ("peak while it is read", found["peak_reading"]),
        ("peak in the epochs", found["peak_epochs"]),
    ):
        print(f"{name:28}{size / MIB:10,.0f} MiB{size / memory:8.2f} times the bound")
    print(f"{'read in':28}{found['seconds_reading']:10.1f} s")
    for name, key in (
        ("streamed", "rows_per_second"),
        ("from memory", "rows_per_second_in_memory"),
    ):
        print(f"{name:28}{found[key]:14,} rows a second, batch {found['batch_size']}")


if __name__ == "__main__":
    assert os.name == "posix"
    main()
