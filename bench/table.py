"""A table of a million rows: time and memory up to the first update, and the time of an epoch.

    python bench/table.py                         prints the table, writes results/table.json
    python bench/table.py --rounds 5 --no-write

Two CSV files of 1,000,000 rows and 20 columns of numbers, with 4 digits and with all 17, are made
in a temporary folder. For each,

    steepest train table --data FILE --target y --hidden 64 64 --batch-size 1024

is started as a process of its own, which stops at its first update. Timed is from the command to
there, imports included. Memory is the most that the process held (VmHWM), less that of a process
that has imported torch and polars, in units of the table as float32 (80 MB).

Then one epoch over the table, an MLP 19-64-64-1 at batch 1,024, against the loop that everybody
writes, `DataLoader(TensorDataset(x, y), shuffle=True)` with `torch.optim.Adam` at its defaults.
Peers run interleaved in one process, once to warm up; figures are medians over the rounds, and the
ratio is the median of each round's ratio. Both are run with one thread and with torch's number.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from itertools import pairwise
from pathlib import Path
from time import perf_counter, time
from typing import Any

ROWS, COLUMNS, BATCH = 1_000_000, 20, 1024
AS_FLOAT32 = ROWS * COLUMNS * 4
MOST_SECONDS, MOST_MEMORY, LEAST_RATIO = 5.0, 3.0, 10.0
DIGITS = {"4 digits": 4, "17 digits": None}

BARE = """
import torch, polars
from pathlib import Path
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""

FIRST_UPDATE = """
import json, os, sys, time
from pathlib import Path
from torch.optim.optimizer import register_optimizer_step_post_hook

def stop(*_):
    status = Path("/proc/self/status").read_text()
    memory = int(status.split("VmHWM:")[1].split()[0]) * 1024
    print(json.dumps({"seconds": time.time() - float(sys.argv[1]), "bytes": memory}), flush=True)
    os._exit(0)

register_optimizer_step_post_hook(stop)
from steepest.cli import main
sys.exit(main(sys.argv[2:]))
"""


def make_csv(path: Path, digits: int | None) -> None:
    """Write the table: 19 normal columns, and their sum of sines."""
    import numpy as np
    import polars as pl

    x = np.random.default_rng(0).normal(size=(ROWS, COLUMNS - 1)) * 10 + 5
    y = np.sin(x / 10).sum(1, keepdims=True)
    names = [f"x{i}" for i in range(COLUMNS - 1)] + ["y"]
    table = np.concatenate([x, y], axis=1)
    pl.DataFrame(table if digits is None else table.round(digits), schema=names).write_csv(path)


def up_to_the_first_update(path: Path) -> dict[str, float]:
    """Start the command; return its seconds, and its bytes beyond the bare process."""
    with tempfile.TemporaryDirectory() as folder:
        words = f"train table --data {path} --target y --hidden 64 64 --batch-size {BATCH}"
        words += f" --folder {folder}/run"
        told = _run(FIRST_UPDATE, str(time()), *words.split())
    found = json.loads(told)
    return {"seconds": found["seconds"], "bytes": found["bytes"] - int(_run(BARE))}


def epochs(path: Path, rounds: int, threads: int) -> dict[str, Any]:
    """Time an epoch of each peer, in turn; return medians and their ratio."""
    import torch

    from steepest.data import load_table

    torch.set_num_threads(threads)
    table = load_table(path, target="y", validation=0)
    times: dict[str, list[float]] = {name: [] for name in PEERS}
    for turn in range(rounds + 1):
        for name, peer in PEERS.items():
            seconds = peer(table.train_x, table.train_y, threads)
            if turn:
                times[name].append(seconds)
    ratios = [p / s for p, s in zip(times["plain"], times["steepest"], strict=True)]
    medians = {name: round(statistics.median(t), 3) for name, t in times.items()}
    return {"seconds_per_epoch": medians, "times_less": round(statistics.median(ratios), 2)}


def plain(x: Any, y: Any, threads: int) -> float:
    """Time the loop that everybody writes."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    model = _model()
    optimizer, loss_fn = torch.optim.Adam(model.parameters(), lr=1e-3), torch.nn.MSELoss()
    begin = perf_counter()
    for batch_x, batch_y in DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True):
        loss = loss_fn(model(batch_x), batch_y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return perf_counter() - begin


def steepest(x: Any, y: Any, threads: int) -> float:
    """Time `train(run)`: progress, metrics, finite check, files."""
    import torch

    from steepest import Run, optim, train
    from steepest.data import Batches

    model = _model()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(
            model=model,
            optimizer=optim.Adam(model.parameters(), lr=1e-3),
            loss_fn=torch.nn.MSELoss(),
            batches=Batches(x, y, batch_size=BATCH),
            epochs=1,
            device="cpu",
            threads=threads,
            folder=folder,
        )
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            return train(run).seconds


PEERS: dict[str, Callable[[Any, Any, int], float]] = {"plain": plain, "steepest": steepest}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Time steepest over a table of a million rows.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, digits in DIGITS.items():
            path = Path(folder, "table.csv")
            make_csv(path, digits)
            results.append(_first_update(name, path, options.rounds))
        import torch

        for threads in sorted({1, torch.get_num_threads()}):
            found = epochs(path, options.rounds, threads)
            results.append({"case": "an epoch", "threads": threads, **found, "target": LEAST_RATIO})
            figures = ", ".join(f"{k} {v:.2f} s" for k, v in found["seconds_per_epoch"].items())
            print(
                f"an epoch, {threads} threads: {figures}: {found['times_less']:.1f} times less "
                f"(wanted {LEAST_RATIO:g})",
                flush=True,
            )
    if not options.no_write:
        from record import save

        save("table", {"rounds": options.rounds, "results": results}, ["polars"])


def _first_update(name: str, path: Path, rounds: int) -> dict[str, Any]:
    size = path.stat().st_size
    up_to_the_first_update(path)  # warms up: the file, the kernel that is compiled once
    found = [up_to_the_first_update(path) for _ in range(rounds)]
    seconds = statistics.median(one["seconds"] for one in found)
    memory = max(one["bytes"] for one in found) / AS_FLOAT32
    print(
        f"first update, {name}, {size / 1e6:.0f} MB: {seconds:.2f} s (wanted {MOST_SECONDS:g}), "
        f"{memory:.2f} times the table (wanted {MOST_MEMORY:g})",
        flush=True,
    )
    return {
        "case": f"first update, {name}",
        "csv_bytes": size,
        "seconds": round(seconds, 2),
        "target_seconds": MOST_SECONDS,
        "memory_in_tables": round(memory, 2),
        "target_memory": MOST_MEMORY,
    }


def _model() -> Any:
    import torch
    from torch import nn

    torch.manual_seed(0)
    pairs = pairwise((COLUMNS - 1, 64, 64))
    layers = [part for before, after in pairs for part in (nn.Linear(before, after), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(64, 1))


def _run(code: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *words], check=True, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stdout.splitlines()[-1]


if __name__ == "__main__":
    main()
