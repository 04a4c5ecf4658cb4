"""Predict one column of a table (CSV, Parquet, Arrow, JSON lines, NumPy) from the others."""

from pathlib import Path
from typing import Literal

import torch
from torch import nn

from steepest.data import Task, Transform, is_large, load_table, stream_table
from steepest.errors import RecipeError
from steepest.optim.named import named_optimizer
from steepest.schedules.named import named_schedule
from steepest.train import Run, choose_device, metrics_for


def run(
    data: Path, target: str, hidden: tuple[int, ...] = (), optimizer: str = "Adam",
    lr: float = 0.01, weight_decay: float | None = None, clip_norm: float | None = None,
    schedule: Literal["constant", "linear", "cosine"] = "constant", warmup: int = 0,
    epochs: int = 50, batch_size: int = 32, task: Task | None = None,
    drop: tuple[str, ...] = (), categorical: tuple[str, ...] = (), numeric: tuple[str, ...] = (),
    validation: float = 0.2, max_categories: int = 50, seed: int = 0, device: str | None = None,
) -> Run:  # fmt: skip
    """Predict one column of a table from the others, with a linear model or an MLP.

    Args:
        data: the table: a CSV, Parquet, Arrow, JSON lines or NumPy file, or a folder of Parquet
        target: the column to predict
        hidden: widths of the hidden layers, as in --hidden 64 64; none makes a linear model
        optimizer: an optimizer of steepest.optim, by its name
        lr: learning rate
        weight_decay: weight decay; left out, the optimizer's own
        clip_norm: norm above which gradients are scaled down
        schedule: how lr falls over the run
        warmup: updates in which lr rises to its full height, before the schedule
        epochs: how often to go through the rows
        batch_size: rows per update
        task: regression or classification; left out, the target's values tell
        drop: columns to leave out
        categorical: columns to take as categories, whatever they hold
        numeric: columns to take as numbers, whatever they hold
        validation: share of the rows that is kept for validation
        max_categories: most categories of a text column
        seed: seed of the split, of the model and of the order
        device: cpu, cuda, ...; chosen if left out
    """
    table = (stream_table if is_large(data) else load_table)(
        data, target=target, task=task, validation=validation, seed=seed, drop=drop,
        categorical=categorical, numeric=numeric, max_categories=max_categories,
    )  # fmt: skip
    torch.manual_seed(seed)
    model, goal = network(table.transform, hidden), table.target
    batches, held_out = table.batches(batch_size, seed=seed, device=choose_device(device))
    metrics = metrics_for(goal.task, classes=len(goal.classes), scale=goal.std)
    return Run(
        model=model,
        optimizer=named_optimizer(optimizer, model.parameters(), lr, weight_decay, clip_norm),
        loss_fn=nn.MSELoss() if goal.task == "regression" else nn.CrossEntropyLoss(),
        batches=batches, validation=held_out, metrics={} if held_out is None else metrics,
        epochs=epochs, log_steps=min(100, len(batches)),
        schedule=named_schedule(schedule, total=epochs * len(batches), warmup_steps=warmup),
        device=device, seed=seed, name=f"{Path(data).stem}: {target}",
        transform=table.transform, notes=table.notes,
    )  # fmt: skip


def network(transform: Transform, hidden: tuple[int, ...] = ()) -> nn.Sequential:
    """Return a linear model, or an MLP with ReLU after each hidden layer."""
    if any(width < 1 for width in hidden):
        raise RecipeError(f"hidden holds widths of at least 1: got {' '.join(map(str, hidden))}")
    widths = [len(transform.features), *hidden]
    pairs = zip(widths, hidden, strict=False)
    layers = [part for before, after in pairs for part in (nn.Linear(before, after), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(widths[-1], transform.outputs))
