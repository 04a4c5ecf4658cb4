"""Predict one column of a table (CSV, Parquet, npz) from the others."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steepest import optim, schedules
from steepest.data import Batches, Table, load_table
from steepest.errors import RecipeError, nearest
from steepest.explain import optimizer_names
from steepest.train import Run, choose_device

MOST_PRODUCTS_OF_ONE_THREAD = 2_000_000  # with two threads no faster below, measured

UNFIT = {
    "LBFGS": "evaluates the loss several times in a step, for which the loop gives it no closure",
    "Muon": "serves matrices alone, and this model has biases",
    "SparseAdam": "takes sparse gradients alone, and those of this model are dense",
}
"""The optimizers that cannot train a table's model, and why."""


def run(
    data: Path,
    target: str,
    hidden: tuple[int, ...] = (),
    optimizer: str = "Adam",
    lr: float = 0.01,
    weight_decay: float | None = None,
    clip_norm: float | None = None,
    schedule: Literal["constant", "linear", "cosine"] = "constant",
    warmup: int = 0,
    epochs: int = 50,
    batch_size: int = 32,
    task: Literal["regression", "classification"] | None = None,
    validation: float = 0.2,
    max_categories: int = 50,
    seed: int = 0,
    device: str | None = None,
    threads: int | None = None,
) -> Run:
    """Predict one column of a table from the others, with a linear model or an MLP.

    Args:
        data: the table: a CSV, Parquet or npz file
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
        validation: share of the rows that is kept for validation
        max_categories: most categories of a text column
        seed: seed of the split, of the model and of the order
        device: cpu, cuda, ...; chosen if left out
        threads: CPU threads; left out, one for a small model and torch's number for a large one
    """
    table = load_table(
        data,
        target=target,
        task=task,
        validation=validation,
        seed=seed,
        max_categories=max_categories,
    )
    torch.manual_seed(seed)
    classify = table.task == "classification"
    model = mlp(table.train_x.shape[1], hidden, len(table.classes) if classify else 1)
    where = choose_device(device)
    batches = Batches(table.train_x, table.train_y, batch_size=batch_size, seed=seed).to(where)
    held_out = None
    if len(table.validation_x):
        held_out = Batches(table.validation_x, table.validation_y, batch_size=1024, shuffle=False)
    return Run(
        model=model,
        optimizer=make_optimizer(optimizer, model, lr, weight_decay, clip_norm),
        loss_fn=nn.CrossEntropyLoss() if classify else nn.MSELoss(),
        batches=batches,
        validation=None if held_out is None else held_out.to(where),
        epochs=epochs,
        schedule=make_schedule(schedule, warmup, epochs * len(batches)),
        metrics={"accuracy": accuracy} if classify and held_out is not None else {},
        device=where,
        threads=1 if threads is None and small(model, batch_size) else threads,
        seed=seed,
        name=f"{Path(data).stem}: {target}",
        result=lambda model: sentence(model, table),
        notes=table.notes,
    )


def mlp(features: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    """Return a linear model, or an MLP with ReLU after each hidden layer."""
    if any(width < 1 for width in hidden):
        raise RecipeError(f"hidden holds widths of at least 1: got {' '.join(map(str, hidden))}")
    layers: list[nn.Module] = []
    widths = [features, *hidden]
    for width, following in zip(widths, hidden, strict=False):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


def make_optimizer(
    name: str,
    model: nn.Module,
    lr: float,
    weight_decay: float | None = None,
    clip_norm: float | None = None,
) -> optim.Optimizer:
    """Return the optimizer of that name over the model's parameters.

    Raises:
        RecipeError: there is no such optimizer, or it cannot serve here.
    """
    names = [known for known in optimizer_names() if known not in UNFIT]
    if name in UNFIT:
        raise RecipeError(f"optimizer {name} {UNFIT[name]}: take one of {', '.join(names)}")
    if name not in names:
        near = nearest(name, names)
        raise RecipeError(f"optimizer is one of {', '.join(names)}: got {name!r}{near}")
    kind = getattr(optim, name)
    decay = {} if weight_decay is None else {"weight_decay": weight_decay}
    if decay and "weight_decay" not in inspect.signature(kind).parameters:
        raise RecipeError(
            f"optimizer {name} has no weight decay: got {weight_decay}; leave it out, or take AdamW"
        )
    return kind(model.parameters(), lr=lr, clip_norm=clip_norm, **decay)


def make_schedule(name: str, warmup: int, updates: int) -> Callable[[int], float] | None:
    """Return the schedule over so many updates, the first of them spent on the warmup.

    Raises:
        RecipeError: the warmup is negative, or as long as the run.
    """
    if not 0 <= warmup < updates:
        raise RecipeError(
            f"warmup is a number of updates from 0 to below the run's {updates}: got {warmup}"
        )
    if name == "constant":
        return schedules.warmup(warmup) if warmup else None
    fall = {"linear": schedules.linear, "cosine": schedules.cosine}[name]
    return fall(total=updates, warmup=warmup)


def small(model: nn.Module, batch_size: int) -> bool:
    """Tell whether one thread is faster than several: so few numbers are multiplied per batch."""
    return batch_size * sum(p.numel() for p in model.parameters()) < MOST_PRODUCTS_OF_ONE_THREAD


def accuracy(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the share of rows whose largest output is the target's class."""
    return (prediction.argmax(1) == target).float().mean()


@torch.no_grad()
def sentence(model: nn.Module, table: Table) -> str:
    """Say how well the model predicts rows that it has not trained on, if any were kept."""
    held_out = len(table.validation_x) > 0
    x, y = (table.validation_x, table.validation_y) if held_out else (table.train_x, table.train_y)
    part = f"on {len(x):,} {'validation' if held_out else 'training'} rows"
    prediction = model.eval()(x.to(next(model.parameters()).device)).cpu()
    if table.task == "classification":
        most = table.train_y.bincount().argmax()
        return (
            f"accuracy {accuracy(prediction, y).item():.1%} {part} "
            f"(always the most frequent class: {(y == most).float().mean().item():.1%})"
        )
    error = F.l1_loss(prediction, y).item() * table.target_std
    plain = y.abs().mean().item() * table.target_std
    said = f"mean absolute error {error:.4g} {part} (always the mean: {plain:.4g})"
    spread = y.var(correction=0)
    if spread == 0:
        return said
    return f"{said}; R² {1 - (F.mse_loss(prediction, y) / spread).item():.3f}"
