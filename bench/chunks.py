"""Find CHUNK and PARALLEL of steepest/kernels/launch.py by measurement, and judge the values there.

    python bench/chunks.py
    python bench/chunks.py --rounds 50 --threads 4

Choices run interleaved in one process; each figure is the median over the rounds, with the
minimum beside it, in microseconds a step. A value in launch.py is right when no other choice is
more than 10 percent better by both figures, for SGD and for Adam.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from time import perf_counter

import torch
from torch import nn

from steepest import optim
from steepest.kernels import launch

CHUNKS = [1 << k for k in range(11, 19)]
SIZES = [1 << k for k in range(12, 22)]
WORKS = {"one tensor of 4M": [4_000_000], "400 tensors of 4K": [4096] * 400}
SLACK = 1.1


def make(name: str, sizes: list[int]) -> optim.Optimizer:
    """Return an optimizer over random parameters, past its first steps."""
    params = [nn.Parameter(torch.randn(size)) for size in sizes]
    for p in params:
        p.grad = torch.randn_like(p)
    options = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = getattr(optim, name)(params, fused=True, **options)
    for _ in range(3):
        optimizer.step()
    return optimizer


def measure(choices: dict[int, Callable[[], None]], rounds: int) -> dict[int, tuple[float, float]]:
    """Return the median and the minimum of each choice, in microseconds."""
    times: dict[int, list[float]] = {choice: [] for choice in choices}
    for _ in range(rounds):
        for choice, work in choices.items():
            begin = perf_counter()
            work()
            times[choice].append((perf_counter() - begin) * 1e6)
    return {choice: (statistics.median(t), min(t)) for choice, t in times.items()}


def chunked(chunk: int, name: str, sizes: list[int]) -> Callable[[], None]:
    """Return a step in chunks of this many elements."""
    kept, launch.CHUNK = launch.CHUNK, chunk
    optimizer = make(name, sizes)
    launch.CHUNK = kept
    return optimizer.step


def find_chunk(rounds: int) -> bool:
    """Print a step's time by CHUNK; tell whether the value in launch.py is right."""
    right = True
    for work, sizes in WORKS.items():
        for name in ("SGD", "Adam"):
            found = measure({c: chunked(c, name, sizes) for c in CHUNKS}, rounds)
            print(f"\n{name}, {work}\n{'CHUNK':>10}{'median':>12}{'minimum':>12}")
            for chunk, (median, least) in found.items():
                here = "  <- launch.py" if chunk == launch.CHUNK else ""
                print(f"{chunk:>10}{median:>12.0f}{least:>12.0f}{here}")
            best = [min(figures) for figures in zip(*found.values(), strict=True)]
            own = found[launch.CHUNK]
            right &= any(mine <= SLACK * best[k] for k, mine in enumerate(own))
    return right


def alone_or_together(name: str, size: int, rounds: int) -> tuple[float, float]:
    """Return how many times faster all threads are than one, by median and by minimum."""
    optimizer = make(name, [size])
    repeats = max(1, 200_000 // size)

    def steps(parallel: int) -> Callable[[], None]:
        def work() -> None:
            launch.PARALLEL = parallel
            for _ in range(repeats):
                optimizer.step()

        return work

    kept = launch.PARALLEL
    alone, together = measure({1: steps(sys.maxsize), 2: steps(0)}, rounds).values()
    launch.PARALLEL = kept
    return alone[0] / together[0], alone[1] / together[1]


def find_parallel(rounds: int) -> bool:
    """Print what threads gain by size; tell whether PARALLEL in launch.py is right."""
    right = True
    print(f"\n{torch.get_num_threads()} threads against 1, times faster (median, minimum)")
    print(f"{'elements':>10}{'SGD':>16}{'Adam':>16}")
    for size in SIZES:
        gains = [alone_or_together(name, size, rounds) for name in ("SGD", "Adam")]
        here = "  <- launch.py" if size == launch.PARALLEL else ""
        print(f"{size:>10}" + "".join(f"{m:>9.2f}{least:>7.2f}" for m, least in gains) + here)
        best = [max(gain) for gain in gains]
        worst = [min(gain) for gain in gains]
        right &= min(worst) <= SLACK if size <= launch.PARALLEL else max(best) >= 1 / SLACK
    return right


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    chunk, parallel = find_chunk(args.rounds), find_parallel(args.rounds)
    for name, value, right in (
        ("CHUNK", launch.CHUNK, chunk),
        ("PARALLEL", launch.PARALLEL, parallel),
    ):
        print(f"\n{name} = {value:,} is {'right' if right else 'WRONG'} on this machine", end="")
    print()


if __name__ == "__main__":
    main()
