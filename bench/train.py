"""Time per batch of `steepest.train` against a plain PyTorch loop, and whether the numbers agree.

    python bench/train.py                         prints the table, writes results/train.json
    python bench/train.py --rounds 5 --no-write

Peers run interleaved in one process, on one thread; a figure is the median over the rounds.

    plain     the loop that everybody writes: DataLoader(TensorDataset, shuffle=True), torch.optim
    memory    the same loop over batches in memory (`Batches`), torch.optim
    bare      the same loop over batches in memory, steepest.optim, and nothing else
    steepest  `train(run)`: bar drawn, metrics written, loss checked at each step

Timed is the loop from its first batch to its last, without making data, model and optimizer. Of
`train(run)` it is `report.seconds`: from after the folder is opened, with the bar's first line, to
before the final checkpoint, model and picture. The clock that asks for checkpoints is part of it;
a checkpoint would be only in a run of more than a minute, which none of these cases is.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from record import save
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from steepest import optim
from steepest.data import Batches, synthetic
from steepest.train import Run, train
from steepest.train import record as train_record
from steepest.train.progress import Bar, Place

ROWS = 10_000
Timed = tuple[float, float]  # microseconds per batch, loss over all rows after training


@dataclass(frozen=True)
class Case:
    """What is trained, and how many times less than the plain loop a batch must take."""

    name: str
    features: int
    optimizer: str
    lr: float
    batch_size: int
    epochs: int
    target: float


CASES = [
    Case("linear regression, SGD, batch 32", 1, "SGD", 0.01, 32, 8, 3.0),
    Case("MLP 13-64-64-1, Adam, batch 32", 13, "Adam", 1e-3, 32, 8, 2.5),
    Case("MLP 13-64-64-1, Adam, batch 256", 13, "Adam", 1e-3, 256, 40, 4.0),
]


def make_data(case: Case) -> tuple[Tensor, Tensor]:
    """Return 10,000 rows of features and targets."""
    if case.features == 1:
        return synthetic.line(rows=ROWS)
    x = torch.randn(ROWS, case.features, generator=torch.Generator().manual_seed(0))
    return x, torch.sin(x).sum(1, keepdim=True)


def make_model(case: Case) -> nn.Module:
    """Return the same model at each call."""
    torch.manual_seed(0)
    if case.features == 1:
        return nn.Linear(1, 1)
    relu = nn.ReLU()
    return nn.Sequential(nn.Linear(13, 64), relu, nn.Linear(64, 64), relu, nn.Linear(64, 1))


def loop(case: Case, optimizers: Any, epochs: Iterable[Iterable[Any]]) -> Timed:
    """Time the loop that everybody writes."""
    model, loss_fn = make_model(case), nn.MSELoss()
    optimizer = getattr(optimizers, case.optimizer)(model.parameters(), lr=case.lr)
    steps = 0
    begin = perf_counter()
    for batches in epochs:
        for x, y in batches:
            prediction = model(x)
            loss = loss_fn(prediction, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
    return (perf_counter() - begin) / steps * 1e6, final_loss(case, model)


def in_memory(case: Case, optimizers: Any) -> Timed:
    """Time the loop over `Batches`."""
    batches = Batches(*make_data(case), batch_size=case.batch_size)
    return loop(case, optimizers, (batches.epoch(n) for n in range(case.epochs)))


def with_loader(case: Case, *, same_order: bool = False) -> Timed:
    """Time the loop over a DataLoader; with `same_order` its rows come as those of `Batches`."""
    data = TensorDataset(*make_data(case))
    plain = DataLoader(data, batch_size=case.batch_size, shuffle=True)

    def ordered() -> Iterator[DataLoader]:
        batches = Batches(*data.tensors, batch_size=case.batch_size)
        for n in range(case.epochs):
            order = batches.order(n).tolist()
            yield DataLoader(data, batch_size=case.batch_size, sampler=order)

    return loop(case, torch.optim, ordered() if same_order else [plain] * case.epochs)


def with_train(case: Case) -> Timed:
    """Time `train(run)`, without what is done once before and after the loop."""
    model = make_model(case)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(
            model=model,
            optimizer=getattr(optim, case.optimizer)(model.parameters(), lr=case.lr),
            loss_fn=nn.MSELoss(),
            batches=Batches(*make_data(case), batch_size=case.batch_size),
            epochs=case.epochs,
            device="cpu",
            folder=folder,
            name=case.name,
        )
        report = train(run)
    return report.seconds / report.steps * 1e6, final_loss(case, model)


@torch.no_grad()
def final_loss(case: Case, model: nn.Module) -> float:
    """Return the loss over all rows."""
    x, y = make_data(case)
    return nn.functional.mse_loss(model(x), y).item()


PEERS: dict[str, Callable[[Case], Timed]] = {
    "plain": with_loader,
    "memory": partial(in_memory, optimizers=torch.optim),
    "bare": partial(in_memory, optimizers=optim),
    "steepest": with_train,
}


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Run all peers in turn; return medians and ratios.

    Raises:
        AssertionError: the losses after training differ.
    """
    reference = with_loader(case, same_order=True)[1]
    times: dict[str, list[float]] = {name: [] for name in PEERS}
    for turn in range(rounds + 1):
        for name, peer in PEERS.items():
            microseconds, loss = peer(case)
            if name != "plain":  # which shuffles by itself
                assert abs(loss - reference) <= 1e-3 * reference, (name, loss, reference)
            if turn:  # the first one warms up
                times[name].append(microseconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = [p / s for p, s in zip(times["plain"], times["steepest"], strict=True)]
    return {
        "case": case.name,
        "microseconds_per_batch": {name: round(value, 1) for name, value in medians.items()},
        "times_less_than_plain": round(statistics.median(ratios), 2),
        "target": case.target,
        "loss": reference,
    }


def draw_bars() -> None:
    """Have `train` draw its bar as in a terminal, into nowhere."""
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115  (open until the end)
    console = Console(file=nowhere, force_terminal=True, width=120)

    def bar(name: str, start: Place, *, shown: bool = True) -> Bar:
        return Bar(name, start, console)

    train_record.open_progress = bar


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Time steepest.train against a plain loop.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    draw_bars()
    results = []
    print(f"{'microseconds per batch':34}" + "".join(f"{name:>10}" for name in PEERS) + "   ratio")
    for case in CASES:
        result = measure(case, options.rounds)
        results.append(result)
        figures = "".join(f"{value:10.1f}" for value in result["microseconds_per_batch"].values())
        ratio, target = result["times_less_than_plain"], result["target"]
        print(f"{case.name:34}{figures}{ratio:8.2f} (wanted {target})", flush=True)
    if not options.no_write:
        save("train", {"rounds": options.rounds, "results": results})


if __name__ == "__main__":
    main()
