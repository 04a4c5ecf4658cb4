"""The loops that a person writes, and ours with everything on."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from train_cases import Case, Timed, final_loss, held_out, make_model, training_rows

from steepest import optim
from steepest.data import Batches
from steepest.train import Run, train, trainer
from steepest.train import record as train_record
from steepest.train.measured.measures import metrics_for
from steepest.train.shown.progress import Bar, Place

METRICS = metrics_for("regression")


# ---- loops by hand ------------------------------------------------------------------------------


def loop(case: Case, optimizers: Any, epochs: Iterable[Any], validation: Iterable[Any]) -> Timed:
    """Time the loop that everybody writes."""
    model, loss_fn = make_model(case), nn.MSELoss()
    optimizer = getattr(optimizers, case.optimizer)(model.parameters(), lr=case.lr)
    begin = perf_counter()
    for batches in epochs:
        model.train()
        for x, y in batches:
            prediction = model(x)
            loss = loss_fn(prediction, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if validation:
            validate(model, loss_fn, validation)
    return (perf_counter() - begin) / case.steps * 1e6, final_loss(case, model)


@torch.no_grad()
def validate(model: nn.Module, loss_fn: nn.Module, validation: Iterable[Any]) -> dict[str, float]:
    """Measure the loss and the metrics of all held-out rows."""
    model.eval()
    total, rows, predictions, targets = 0.0, 0, [], []
    for x, y in validation:
        prediction = model(x)
        total += loss_fn(prediction, y).item() * len(y)
        rows += len(y)
        predictions.append(prediction)
        targets.append(y)
    predicted, wanted = torch.cat(predictions), torch.cat(targets)
    found = {name: float(m.function(predicted, wanted)) for name, m in METRICS.items()}
    return {"loss": total / rows, **found}


def batches_of(case: Case) -> tuple[Batches, Batches]:
    """Return what is trained on and what is validated, in memory."""
    size = case.batch_size
    return (
        Batches(*training_rows(case), batch_size=size),
        Batches(*held_out(case), batch_size=size, shuffle=False),
    )


def in_memory(case: Case, optimizers: Any) -> Timed:
    """Time the loop over `Batches`."""
    batches, validation = batches_of(case)
    return loop(case, optimizers, (batches.epoch(n) for n in range(case.epochs)), validation)


def with_loader(case: Case, *, same_order: bool = False) -> Timed:
    """Time the loop over a DataLoader; with `same_order` its rows come as those of `Batches`."""
    data, size = TensorDataset(*training_rows(case)), case.batch_size
    plain = DataLoader(data, batch_size=size, shuffle=True)

    def ordered() -> Iterator[DataLoader]:
        for n in range(case.epochs):
            order = batches_of(case)[0].order(n).tolist()
            yield DataLoader(data, batch_size=size, sampler=order)

    validation = DataLoader(TensorDataset(*held_out(case)), batch_size=size)
    epochs = ordered() if same_order else [plain] * case.epochs
    return loop(case, torch.optim, epochs, validation)


# ---- ours ---------------------------------------------------------------------------------------


class Apart:
    """The seconds of checkpoints and of compiling, which are told apart from the steps'."""

    def __init__(self) -> None:
        self.saves: list[float] = []
        self.graphs: list[Any] = []
        save_checkpoint, compiled_step = train_record.Record._save, trainer.compiled_step

        def saved(record: Any) -> None:
            begin = perf_counter()
            save_checkpoint(record)
            self.saves.append(perf_counter() - begin)

        def compiled(run: Run) -> Any:
            self.graphs.append(compiled_step(run))
            self.graphs[-1].told = tuple  # else it times steps without the graph, at the end
            return self.graphs[-1]

        train_record.Record._save, trainer.compiled_step = saved, compiled

    def seconds(self, epochs: int) -> float:
        """Return what one run has taken for that before it was finished, and forget it."""
        found = sum(self.saves[:epochs]) + sum(graph.compile_seconds for graph in self.graphs)
        self.saves.clear()
        self.graphs.clear()
        return found


def with_train(case: Case, apart: Apart, compile: Any = None) -> Timed:
    """Time `train(run)` with everything on."""
    model, (batches, validation) = make_model(case), batches_of(case)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(
            model=model,
            optimizer=getattr(optim, case.optimizer)(model.parameters(), lr=case.lr),
            loss_fn=nn.MSELoss(),
            batches=batches,
            validation=validation,
            metrics=METRICS,
            epochs=case.epochs,
            checkpoint_epochs=1,
            compile=compile,
            device="cpu",
            folder=folder,
            name=case.name,
        )
        with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
            report = train(run)
    seconds = report.seconds - apart.seconds(case.epochs)
    return seconds / report.steps * 1e6, final_loss(case, model)


def draw_bars() -> None:
    """Have `train` draw its bar as in a terminal, into nowhere."""
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115  (open until the end)
    console = Console(file=nowhere, force_terminal=True, width=120)

    def bar(name: str, start: Place, *, shown: bool = True) -> Bar:
        return Bar(name, start, console)

    train_record.open_progress = bar
