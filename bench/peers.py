"""Time AdamW, Lion and schedule-free AdamW against other packages, side by side in one process.

    make bench-peers                                  everything, in an environment of its own
    .venv-peers/bin/python bench/peers.py --sets gpt2 --rules Lion

Each candidate first makes one step in a process of its own, with empty caches: that is its time to
the first step, from before its import (torch is there) to after the step. One that cannot, or not
within `--limit` seconds, is listed with the reason. Then all of a rule take turns in one process
over the same parameters and gradients (optax over copies; schedulefree and optimi's AdamW write
over the gradients, which stay ordinary numbers). Only a run of everything is recorded.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from candidates import PACKAGES, RULES
from clock import seconds, time_in_place
from record import save
from shapes import parameters

TARGETS = {"manysmall": 1.0, "resnet50": 0.95, "gpt2": 0.95}
"""Every other's time over ours; less than 1 where all who are good run at the memory's speed."""
OURS = "steepest"
CACHES = ("STEEPEST_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR")


class CandidateError(Exception):
    """A candidate that made no step, with the reason."""


# ---- in a process of their own ------------------------------------------------------------------


def first_step(name: str, rule: str, candidate: str) -> float:
    """Return what it takes to import a candidate, make it and step, in seconds."""
    params = parameters(name)
    return seconds(lambda: RULES[rule][candidate](params)())


def side_by_side(name: str, rule: str, *candidates: str, duration: float) -> dict[str, list[float]]:
    """Return the times of the candidates' steps, in seconds, taken in turns."""
    params = parameters(name)
    steps = {candidate: RULES[rule][candidate](params) for candidate in candidates}
    return time_in_place(steps, duration)


def in_a_process(part: str, duration: float, limit: float, folder: str, *what: str) -> Any:
    """Run one of the two above in a new process, whose caches are in a folder.

    Raises:
        CandidateError: it failed, or took longer than the limit (in seconds).
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # ninja is there
    caches = {word: str(Path(folder) / word) for word in CACHES}
    with subprocess.Popen(
        [sys.executable, __file__, "--seconds", str(duration), part, *what],
        env=os.environ | caches | {"PATH": path},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,  # so that the compilers it starts end with it
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            raise CandidateError(f"took more than {limit:.0f} seconds") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise CandidateError((err.strip().splitlines() or [f"ended with {process.returncode}"])[-1])
    return json.loads(out.splitlines()[-1])


# ---- the whole ----------------------------------------------------------------------------------


def compare(name: str, rule: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the results of a rule's candidates over a set of shapes."""
    results = {c: {"set": name, "rule": rule, "candidate": c} for c in RULES[rule]}
    with tempfile.TemporaryDirectory() as folder:
        given = (options.seconds, options.limit, folder, name, rule)
        for candidate, result in results.items():
            try:
                result["first step, seconds"] = in_a_process("--first", *given, candidate)
            except CandidateError as error:
                result["failed"] = str(error)
        able = [candidate for candidate, result in results.items() if "failed" not in result]
        given = (options.seconds, len(able) * options.limit, folder, name, rule)
        try:
            times = in_a_process("--side-by-side", *given, *able)
        except CandidateError as error:
            times = {}
            for candidate in able:
                results[candidate]["failed"] = f"side by side: {error}"
    for candidate, values in times.items():
        result = results[candidate]
        result["microseconds"] = statistics.median(values) * 1e6
        result["minimum"] = min(values) * 1e6
        ratios = [one / our for one, our in zip(values, times[OURS], strict=True)]
        result["times ours"] = statistics.median(ratios)
        result["target"] = TARGETS[name]
    yield from results.values()


def line(r: dict[str, Any]) -> str:
    """Return a result in one line."""
    start = f"{r['set']:10} {r['rule']:20} {r['candidate']:28}"
    if "failed" in r:
        return f"{start} {r['failed']}"
    missed = "" if r["times ours"] >= r["target"] else f" (target {r['target']})"
    return (
        f"{start} {r['microseconds']:11,.0f} us, at least {r['minimum']:11,.0f}   "
        f"{r['times ours']:6.2f} times ours{missed}   "
        f"first step {r['first step, seconds']:6.1f} s"
    )


def parsed() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--seconds", type=float, default=5.0, help="per set and rule")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds to a first step")
    parser.add_argument("--first", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--side-by-side", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print, record."""
    options = parsed()
    if options.first:
        print(json.dumps(first_step(*options.first)))
        return
    if options.side_by_side:
        print(json.dumps(side_by_side(*options.side_by_side, duration=options.seconds)))
        return
    results = []
    for name in options.sets:
        for rule in options.rules:
            for result in compare(name, rule, options):
                results.append(result)
                print(line(result), flush=True)
    if options.sets == list(TARGETS) and options.rules == list(RULES):
        save("peers", results, PACKAGES)


if __name__ == "__main__":
    main()
