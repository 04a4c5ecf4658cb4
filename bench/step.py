"""Time optimizer.step() against torch.optim's modes, interleaved in one process.

    python bench/step.py                         every row (about a quarter of an hour)
    python bench/step.py --sets mlp gpt2         some sets of shapes
    python bench/step.py --rows AdamW Muon       some rows

Every candidate updates the same parameters from the same gradients, in turns; a figure is the
median over the turns. "in place" leaves the gradients where they are; "fresh" allocates them anew
before each step, outside the clock, as a backward after zero_grad does. Two rows of another kind
compare AdamW with the memory's speed (`roof.py`). A run of everything is recorded; a run of some,
with `--record`, in the place of the same sets and rows of earlier runs.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import roof
from clock import disturbed, faults, medians, time_fresh, time_in_place
from record import merged, save
from rich.console import Console
from rich.table import Table
from rows import ROWS, Row
from shapes import SHAPES, parameters
from torch import Tensor

FIRST = """
import time, torch
p = torch.zeros(64, 64, requires_grad=True)
p.grad = torch.ones_like(p)
import torch.optim.lr_scheduler
start = time.perf_counter()
import steepest.optim
imported = time.perf_counter()
steepest.optim.Adam([p]).step()
print(imported - start, time.perf_counter() - start)
"""


def first_step() -> dict[str, float]:
    """Return seconds from before the import to after the first step, in fresh processes."""
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for cache in ("empty cache", "warm cache", "warm cache again"):
            done = subprocess.run(
                [sys.executable, "-c", FIRST],
                env={"PATH": "", "STEEPEST_CACHE_DIR": folder},
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            imported, total = map(float, done.stdout.split())
            result[cache] = total
            result["import alone"] = imported
    return result


def compare(row: Row, name: str, params: list[Tensor], duration: float) -> dict[str, Any]:
    """Measure a row over a set's parameters."""
    steps = row.candidates(params)
    in_place = time_in_place(steps, duration)
    result: dict[str, Any] = {"set": name, "row": row.name, "target": row.targets[name]}
    result["faults"] = faults(steps["steepest"], min(in_place["steepest"]))
    fresh = time_fresh(steps, params, duration)
    result["disturbed"] = disturbed(in_place)
    for column, times in (("in place", medians(in_place)), ("fresh", medians(fresh))):
        best = min(value for key, value in times.items() if key != "steepest")
        result[column] = {k: v * 1e6 for k, v in times.items()}
        result[f"ratio {column}"] = best / times["steepest"]
    return result


def measure(sets: list[str], rows: list[str], duration: float) -> Iterator[dict[str, Any]]:
    """Yield the results against torch's modes."""
    for name in sets:
        params = parameters(name)
        for row in ROWS:
            taking_part = [p for p in params if p.ndim == 2] if row.matrices else params
            if row.name in rows and taking_part:
                yield compare(row, name, taking_part, duration)


def measure_roof(sets: list[str], rows: list[str], duration: float) -> Iterator[dict[str, Any]]:
    """Yield the results against the memory's speed."""
    for name in sets:
        for row, measured in roof.ROOF.items():
            if name in roof.SETS and row in rows:
                target = roof.TARGETS[row]
                yield {"set": name, "row": row, "target": target} | measured(
                    parameters(name), duration
                )


def line(r: dict[str, Any]) -> str:
    """Return a result in one line."""
    times = "  ".join(f"{k} {v:,.1f}" for k, v in r["in place"].items())
    reached = "" if r["ratio in place"] >= r["target"] else f"  (target {r['target']})"
    noise = f"  disturbed: {', '.join(r['disturbed'])}" if r["disturbed"] else ""
    return (
        f"{r['set']:10} {r['row']:20} x{r['ratio in place']:.2f} in place, "
        f"x{r['ratio fresh']:.2f} fresh{reached}   us: {times}   faults {r['faults']:.1f}{noise}"
    )


def table(results: list[dict[str, Any]]) -> Table:
    """Return how many times faster, a line a row."""
    sets = list(dict.fromkeys(r["set"] for r in results))
    out = Table("times faster than torch's best mode", *sets, title="in place / fresh")
    for row in dict.fromkeys(r["row"] for r in results):
        found = {r["set"]: r for r in results if r["row"] == row}
        cells = [
            f"{found[s]['ratio in place']:.1f} / {found[s]['ratio fresh']:.1f}"
            if s in found
            else ""
            for s in sets
        ]
        out.add_row(row, *cells)
    return out


def main() -> None:
    """Measure, print, record."""
    every = [row.name for row in ROWS] + list(roof.ROOF)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--rows", nargs="+", default=every, choices=every, metavar="ROW",
                        help=f"some of: {', '.join(every)}")  # fmt: skip
    parser.add_argument("--record", action="store_true", help="record sets and rows measured")
    parser.add_argument("--seconds", type=float, default=2.0, help="per row and column")
    options = parser.parse_args()
    console = Console(soft_wrap=True)
    first = first_step()
    console.print("seconds to the first step:", {k: round(v, 3) for k, v in first.items()})
    steps, memory = [], []
    for result in measure(options.sets, options.rows, options.seconds):
        steps.append(result)
        console.print(line(result), highlight=False)
    for result in measure_roof(options.sets, options.rows, options.seconds):
        memory.append(result)
        console.print(roof.line(result), highlight=False)
    console.print(table(steps))
    parts = {"steps, microseconds": steps, "memory": memory}
    if options.sets != list(SHAPES) or options.rows != every:
        if not options.record:
            return
        parts = {name: merged("step", name, new) for name, new in parts.items()}
    save("step", {"first step, seconds": first, **parts})


if __name__ == "__main__":
    main()
