"""Where and with what a result was measured, and its file under bench/results/."""

import json
import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def processor() -> str:
    """Return the processor's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


OWN = ("steepest", "torch", "numba", "llvmlite", "numpy")


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Return what a reader needs to judge the figures."""
    return {
        "processor": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[1], 1),  # of 5 minutes; the benchmark's own is about 1 or 2
        "versions": versions([*OWN, *packages]),
    }


def save(name: str, rows: Any, packages: Iterable[str] = ()) -> None:
    """Write a result beside the machine that it was measured on."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"machine": machine(packages), "rows": rows}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")


def merged(name: str, part: str, new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a recorded part with what was measured now in the place of the same sets and rows."""
    path = RESULTS / f"{name}.json"
    old = json.loads(path.read_text())["rows"].get(part, []) if path.exists() else []
    measured = {(row["set"], row["row"]) for row in new}
    return [row for row in old if (row["set"], row["row"]) not in measured] + new
