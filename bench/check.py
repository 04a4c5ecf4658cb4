"""What the watch of `steepest check` costs a training step.

    python bench/check.py               prints the table, writes results/check.json
    python bench/check.py --no-write

The same training, with the watch on and off in turns of a few steps, in one process. The first
steps, in which the rules look closely, are told apart.
"""

import argparse
import statistics
from time import perf_counter
from typing import Any

import torch
from record import save
from torch import nn

from steepest.check import Watch
from steepest.check.taps import leave, listen

FIRST = 20  # steps, in which the rules look closely
TARGETS = {"MLP 13-64-64-1": ("microseconds", 15.0), "34 million parameters": ("share", 0.02)}


def small() -> tuple[nn.Module, torch.Tensor, torch.Tensor, int]:
    """Return the MLP, a batch and the steps of a turn."""
    layers = nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
    return nn.Sequential(*layers), torch.randn(32, 13), torch.randn(32, 1), 200


def large() -> tuple[nn.Module, torch.Tensor, torch.Tensor, int]:
    """Return 34 million parameters in 50 tensors, a batch and the steps of a turn."""
    width = 1160
    layers = [part for _ in range(25) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers), torch.randn(32, width), torch.randn(32, width), 4


CASES = {"MLP 13-64-64-1": small, "34 million parameters": large}


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Return the time of a step with and without the watch, and of the first ones with it."""
    torch.manual_seed(0)
    model, x, y, steps = CASES[name]()
    optimizer, loss_fn = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True), nn.MSELoss()

    def train(count: int) -> float:
        begin = perf_counter()
        for _ in range(count):
            loss = loss_fn(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return (perf_counter() - begin) / count

    train(FIRST)
    watch = Watch([model])
    rules = watch._rules
    first = train(FIRST)
    times: dict[str, list[float]] = {"plain": [], "watched": []}
    for turn in range(2 * rounds):
        watched = turn % 2 == 0
        (listen if watched else leave)(rules)
        train(1)
        times["watched" if watched else "plain"].append(train(steps))
    watch.close()
    assert not watch.findings(), watch.findings()
    plain, watched = (statistics.median(times[k]) for k in ("plain", "watched"))
    above = [a - b for a, b in zip(times["watched"], times["plain"], strict=True)]
    return {
        "case": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "target": TARGETS[name],
        "microseconds": {"plain": plain * 1e6, "watched": watched * 1e6, "first": first * 1e6},
        "above": statistics.median(above) * 1e6,
        "share": statistics.median(above) / plain,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Time the watch of steepest check.")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = [measure(name, options.rounds) for name in CASES]
    for r in results:
        took = r["microseconds"]
        print(
            f"{r['case']}: {took['plain']:,.0f} us a step, watched {r['above']:+.1f} us "
            f"({r['share']:+.2%}), the first {FIRST} {took['first'] - took['plain']:+,.0f} us"
        )
    if not options.no_write:
        save("check", {"first": FIRST, "results": results})


if __name__ == "__main__":
    main()
