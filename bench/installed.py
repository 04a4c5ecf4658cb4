"""What a package brings along: the bytes of its distributions, and the time of its import."""

import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

TIMED = """
import time
{before}
start = time.perf_counter()
import {module}
print(time.perf_counter() - start)
"""


def distributions(names: Iterable[str]) -> dict[str, Distribution]:
    """Return distributions by name, with all that they require and that is installed."""
    found: dict[str, Distribution] = {}
    wanted = list(names)
    while wanted:
        name = wanted.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue
        for line in found[name].requires or []:
            required = Requirement(line)
            if required.marker is None or required.marker.evaluate({"extra": ""}):
                wanted.append(required.name)
    return found


def megabytes(names: Iterable[str]) -> float:
    """Return the size of distributions with all that they require, without torch's part of it."""
    torch = distributions(["torch"])
    files = [
        file.locate()
        for name, found in distributions(names).items()
        if name not in torch
        for file in found.files or []
    ]
    if "steepest" in names:  # which may be installed as a link to its sources
        spec = find_spec("steepest")
        assert spec is not None
        files += [p for place in spec.submodule_search_locations or [] for p in _sources(place)]
    sizes = {os.path.realpath(f): Path(f).stat().st_size for f in files if Path(f).is_file()}
    return sum(sizes.values()) / 1e6


def _sources(folder: str) -> Iterable[Path]:
    return Path(folder).rglob("*.py")


def import_seconds(module: str, before: str = "import torch", **environment: str) -> float:
    """Return the time of an import after another one, in a fresh process: the least of three."""
    code = TIMED.format(before=before, module=module)
    return min(
        float(
            subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, **environment}, capture_output=True, text=True, check=True,
            ).stdout.split()[-1]
        )
        for _ in range(3)
    )  # fmt: skip
