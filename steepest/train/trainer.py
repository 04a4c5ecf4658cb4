"""The training loop: five steps in the open.

Nothing here is hidden behind hooks. Another need is another short function over the same parts:
`Record` (place, metrics, checkpoints, progress), `validate`, `scale_lr`, or none of them.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from steepest.clip import clip_grad_norm_
from steepest.errors import RecipeError
from steepest.train.device import choose_device
from steepest.train.metrics import Mean, rows_of
from steepest.train.record import Record
from steepest.train.run import Report, Row, Run, Scheduler


def train(run: Run) -> Report:
    """Train `run.model` and return what came of it.

    With a folder, the run leaves there: metrics.jsonl, checkpoint.pt, model.safetensors and
    loss.png. The same run gives the same numbers, stopped and resumed or not, on the CPU.

    Raises:
        RunError: the loss is no finite number.
        RecipeError: a batch, the folder, the device or what the schedule gives cannot be used.
        CheckpointError: a checkpoint cannot be read or written, or is of another run.
        Stopped: Ctrl-C or SIGTERM asked for it; the checkpoint is written.
    """
    device = choose_device(run.device)
    model, optimizer, loss_fn = run.model.to(device), run.optimizer, run.loss_fn
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    schedule = run.schedule if callable(run.schedule) else None

    with Record(run, device) as record:
        while record.place.epoch < run.epochs:
            model.train()
            for *inputs, target in record.batches():
                prediction = model(*inputs)  # 1. forward
                loss = loss_fn(prediction, target)  # 2. loss
                record.loss(loss, target)
                optimizer.zero_grad()
                loss.backward()  # 3. backward
                if run.clip_norm is not None:
                    clip_grad_norm_(parameters, run.clip_norm)  # 4. clip
                if schedule is not None:
                    scale_lr(optimizer, schedule(record.place.step))
                optimizer.step()  # 5. step
                record.step()
            measured = {}
            if run.validation is not None:
                measured = validate(model, loss_fn, record.validation_batches(), run.metrics)
            row = record.epoch(measured)
            if isinstance(run.schedule, Scheduler):
                step_scheduler(run.schedule, row)
            record.pause()
        return record.finish()


@torch.no_grad()
def validate(
    model: nn.Module,
    loss_fn: Callable[..., Tensor],
    batches: Iterable[Any],
    metrics: Mapping[str, Callable[..., Tensor | float]] | None = None,
) -> dict[str, float]:
    """Measure loss and metrics in `eval` mode: means over the batches, weighted by their rows."""
    measures = {"loss": loss_fn, **(metrics or {})}
    means = {name: Mean() for name in measures}
    training = model.training
    model.eval()
    for *inputs, target in batches:
        prediction = model(*inputs)
        for name, measure in measures.items():
            means[name].add(measure(prediction, target), rows_of(target))
    model.train(training)
    return {name: mean.read() for name, mean in means.items()}


def scale_lr(optimizer: torch.optim.Optimizer, multiplier: float) -> None:
    """Set each group's lr to its first lr times the multiplier.

    The first lr is kept as the group's `initial_lr`, as torch's schedulers do, so that a second
    training starts from it too. An lr that is a tensor is set in place.

    Raises:
        RecipeError: the multiplier is negative or no finite number.
    """
    try:
        good = 0 <= multiplier < math.inf
    except TypeError:
        good = False
    if not good:
        raise RecipeError(
            f"A schedule gives the multiplier of lr, a finite number of at least 0: got "
            f"{multiplier!r}; correct the function"
        )
    for group in optimizer.param_groups:
        if "initial_lr" not in group:
            group["initial_lr"] = float(group["lr"])
        lr = group["initial_lr"] * multiplier
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def step_scheduler(scheduler: Scheduler, row: Row) -> None:
    """Step a scheduler after an epoch; one that waits for a plateau is given the loss."""
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(row.get("validation_loss", row["loss"]))
    else:
        scheduler.step()
