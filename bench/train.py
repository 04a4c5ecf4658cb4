"""Time per batch of `steepest.train` against a plain PyTorch loop and other packages' loops.

    python bench/train.py                         prints the tables, writes results/train.json
    python bench/train.py --peers                 with other packages, writes train_peers.json
    python bench/train.py --rounds 3 --no-write

Everyone trains the same model on the same 10,000 rows with the same optimizer, and validates 1,000
others after each epoch (loops by hand and ours measure MSE, MAE and R2, too); a figure is the time
from the first batch to the end of the last epoch, divided by the training batches. Candidates take
turns, in one process and on one thread; what needs a process of its own (Keras) has its turn in
that, on one core.

    plain     the loop that everybody writes: DataLoader(TensorDataset, shuffle=True), torch.optim
    memory    the same loop over batches in memory (`Batches`), torch.optim
    bare      the same loop over batches in memory, steepest.optim, and nothing else
    steepest  `train(run)`: bar drawn, metrics measured and written, loss checked at each step, a
              checkpoint after each epoch, whose own time is left out
    compiled  the same with `compile="step"`, without the seconds in which the graph is made
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import installed
import numpy as np
import torch
from record import save
from train_cases import CASES, Case, Timed, held_out, make_model, training_rows
from train_loops import Apart, draw_bars, in_memory, with_loader, with_train
from train_peers import KERAS, PACKAGES, PEERS

from steepest import optim

Candidate = Callable[[Case], Timed]
MOST_ABOVE = {"microseconds": 3.0, "share": 0.05}
"""How far a batch of `steepest` may be above one of `bare`; one of the two is enough."""
APART = {"memory": 1e-6, "bare": 0.03, "steepest": 0.03, "compiled": 0.03}
"""How far the loss may be from the plain loop's, relative; others have another order of rows. What
another optimizer or a graph rounds otherwise has grown after thousands of steps."""


# ---- Keras, in processes of their own -----------------------------------------------------------


class Keras:
    """A process with a backend of Keras; a context that ends it."""

    def __init__(self, backend: str, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("train_keras.py"))],
            env={**os.environ, "KERAS_BACKEND": backend},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def __call__(self, case: Case) -> Timed:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{self._told(case)}\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["microseconds"], answer["loss"]

    def _told(self, case: Case) -> Path:
        """Return the file that tells what to train."""
        path = self.folder / f"{CASES.index(case)}.npz"
        if not path.exists():
            (x, y), (vx, vy) = training_rows(case), held_out(case)
            weights = [(p.mT if p.ndim == 2 else p).detach() for p in make_model(case).parameters()]
            named = {f"weight {k}": weight for k, weight in enumerate(weights)}
            told = {name: getattr(case, name) for name in ("optimizer", "lr", "batch_size")}
            told |= {"epochs": case.epochs, "steps": case.steps, "weights": len(weights)}
            rows = {"x": x.numpy(), "y": y.numpy(), "vx": vx.numpy(), "vy": vy.numpy()}
            np.savez(path, **rows, **named, **told)
        return path

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


# ---- all in turns -------------------------------------------------------------------------------


def measure(case: Case, candidates: dict[str, Candidate], rounds: int) -> dict[str, Any]:
    """Run all candidates in turn; return medians, minima and ratios.

    Raises:
        AssertionError: the losses after training differ.
    """
    reference = with_loader(case, same_order=True)[1]
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, candidate in candidates.items():
            microseconds, loss = candidate(case)
            assert abs(loss - reference) <= APART.get(name, 0.3) * reference, (name, loss)
            if turn:  # the first one warms up
                times[name].append(microseconds)
    return {
        "case": case.name,
        "targets": {"plain": case.plain, "peers": case.peers, "above": MOST_ABOVE},
        "microseconds": {name: statistics.median(found) for name, found in times.items()},
        "minimum": {name: min(found) for name, found in times.items()},
        "times steepest": {name: _ratio(times, name, "steepest") for name in times},
        "times compiled": {name: _ratio(times, name, "compiled") for name in times},
        "above bare": _above(times),
        "loss": reference,
    }


def _ratio(times: dict[str, list[float]], name: str, ours: str) -> float:
    pairs = zip(times[name], times[ours], strict=True)
    return statistics.median(theirs / mine for theirs, mine in pairs)


def _above(times: dict[str, list[float]]) -> float:
    pairs = zip(times["steepest"], times["bare"], strict=True)
    return statistics.median(mine - bare for mine, bare in pairs)


def lines(result: dict[str, Any], brought: dict[str, dict[str, float]]) -> Iterator[str]:
    """Return a case's table, and whether it has reached its targets."""
    figures, targets = result["microseconds"], result["targets"]
    yield f"\n{result['case']}"
    head = ("us a batch", "at least", "/ steepest", "/ compiled", "MB", "import, s")
    yield f"{'':22}" + "".join(f"{word:>12}" for word in head)
    for name, value in figures.items():
        row = [value, *(result[k][name] for k in ("minimum", "times steepest", "times compiled"))]
        cells = [f"{row[0]:12.1f}{row[1]:12.1f}{row[2]:12.2f}{row[3]:12.2f}"]
        if name in brought:
            cells.append(f"{brought[name]['megabytes']:12.0f}{brought[name]['seconds']:12.2f}")
        yield f"{name:22}" + "".join(cells) + _missed(result, name, targets)
    above, bare = result["above bare"], figures["bare"]
    yield f"above bare: {above:.1f} us, {above / bare:.1%} (wanted: at most 3 us or 5%)"


def _missed(result: dict[str, Any], name: str, targets: dict[str, Any]) -> str:
    """Return the target that a candidate's row misses."""
    if name == "Keras on JAX":
        return "" if result["times compiled"][name] >= 1 else "  (compiled: wanted 1)"
    wanted = targets["plain"] if name == "plain" else targets["peers"] if name in PACKAGES else 0
    return "" if result["times steepest"][name] >= wanted else f"  (wanted {wanted})"


def what_they_bring(peers: bool, only: list[str] | None) -> dict[str, dict[str, float]]:
    """Return each package's size beyond torch and its import time after torch's."""
    found = {"steepest": _brought(["steepest"], "steepest.train")}
    for name, (packages, module) in there().items() if peers else ():
        if only and name not in only:
            continue
        backend = KERAS.get(name)
        others = {} if backend is None else {"KERAS_BACKEND": backend}
        before = "" if backend == "jax" else "import torch"
        found[name] = _brought(packages, module, before=before, **others)
    return found


def there() -> dict[str, tuple[list[str], str]]:
    """Return the packages that are installed, and say which are not."""
    found = {}
    for name, (packages, module) in PACKAGES.items():
        if missing := [p for p in packages if not installed.distributions([p])]:
            print(f"{name}: {', '.join(missing)} is not installed")
        else:
            found[name] = (packages, module)
    return found


def _brought(packages: list[str], module: str, **how: str) -> dict[str, float]:
    seconds = installed.import_seconds(module, **how)
    return {"megabytes": installed.megabytes(packages), "seconds": seconds}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Time steepest.train against other loops.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peers", action="store_true", help="other packages, too")
    parser.add_argument("--only", nargs="+", help="these beside bare, steepest and compiled")
    parser.add_argument("--cases", type=int, nargs="+", default=range(len(CASES)))
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    draw_bars()
    apart, results = Apart(), []
    candidates: dict[str, Candidate] = {
        "plain": with_loader,
        "memory": partial(in_memory, optimizers=torch.optim),
        "bare": partial(in_memory, optimizers=optim),
        "steepest": partial(with_train, apart=apart),
        "compiled": partial(with_train, apart=apart, compile="step"),
    }
    brought = what_they_bring(options.peers, options.only)
    with ExitStack() as within:
        if options.peers:
            folder = Path(within.enter_context(tempfile.TemporaryDirectory()))
            candidates |= {name: peer for name, peer in PEERS.items() if name in brought}
            for name, backend in KERAS.items():
                if name in brought:
                    candidates[name] = process = Keras(backend, folder)
                    within.callback(process.close)
        if options.only:
            wanted = (*options.only, "bare", "steepest", "compiled")
            candidates = {name: one for name, one in candidates.items() if name in wanted}
        for case in (CASES[k] for k in options.cases):
            results.append(measure(case, candidates, options.rounds))
            print("\n".join(lines(results[-1], brought)), flush=True)
    if not options.no_write and not options.only and len(results) == len(CASES):
        packages = itertools.chain.from_iterable(names for names, _ in PACKAGES.values())
        rows = {"rounds": options.rounds, "brought": brought, "results": results}
        save("train_peers" if options.peers else "train", rows, packages if options.peers else ())


if __name__ == "__main__":
    main()
