"""The training loop: five steps in the open.

Nothing here is hidden behind hooks. Another need is another short function over the same parts:
`Record` (place, metrics, checkpoints, progress), `validate`, `scale_lr`, or none of them.
"""

import math

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from steepest.clip import clip_grad_norm_
from steepest.errors import RecipeError
from steepest.train.compiled.step import CompiledStep
from steepest.train.device import choose_device
from steepest.train.kinds import Row, Scheduler
from steepest.train.precision import Precision
from steepest.train.record import Record
from steepest.train.run import Report, Run


def train(run: Run) -> Report:
    """Train `run.model` and return what came of it.

    With a folder, the run leaves there its metrics, checkpoints, models and a picture (see
    docs/training.md). The same run gives the same numbers, stopped and resumed or not, on the CPU.

    Raises:
        RunError: the loss is no finite number, or a file cannot be written any more.
        RecipeError: a batch, the folder, the device or what the schedule gives cannot be used.
        CheckpointError: a checkpoint cannot be read, or is of another run.
        Stopped: Ctrl-C or SIGTERM asked for it; the checkpoint is written.
    """
    device = choose_device(run.device)
    model, optimizer = run.model.to(device), run.optimizer
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    schedule = run.schedule if callable(run.schedule) else None
    precision = Precision(run.precision, device)
    forward, loss_fn = precision.computing(model), precision.computing(run.loss_fn)
    compiled = compiled_step(run) if run.compile == "step" else None

    with Record(run, device, precision) as record:
        while record.goes_on():
            model.train()
            for window in record.windows():  # one batch, or as many as make an update
                if schedule is not None:
                    scale_lr(optimizer, schedule(record.place.step))
                if compiled is not None:  # all five in one graph
                    (((*inputs, target), _),) = window
                    if record.clock.watching:
                        record.watch.before(precision.scale)
                    record.loss(compiled(inputs, target), inputs, target)
                    record.watch.take(compiled.gradient_norm)
                else:
                    optimizer.zero_grad()
                    for (*inputs, target), share in window:
                        prediction = forward(*inputs)  # 1. forward
                        loss = loss_fn(prediction, target)  # 2. loss
                        record.loss(loss, inputs, target)
                        precision.scaled(loss, share).backward()  # 3. backward
                    if record.clock.watching:
                        record.watch.before(precision.scale)
                    if run.clip_norm is not None:
                        precision.unscale(optimizer)
                        clip_grad_norm_(parameters, run.clip_norm)  # 4. clip
                    precision.step(optimizer)  # 5. step
                if record.step():  # now and then something is due
                    if record.validation_due():
                        step_scheduler(run, record.validate())
                    if not record.goes_on():
                        break
            else:
                step_scheduler(run, record.epoch())
        return record.finish(() if compiled is None else compiled.told())


def compiled_step(run: Run) -> CompiledStep:
    """Return the run's update as one graph."""
    rows = getattr(run.batches, "batch_size", None)
    return CompiledStep(
        run.model,
        run.optimizer,
        run.loss_fn,
        run.clip_norm,
        autocast=None if run.precision == "float32" else getattr(torch, run.precision),
        rows=rows if isinstance(rows, int) else None,
    )


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


def step_scheduler(run: Run, row: Row) -> None:
    """Step a scheduler with memory: after an epoch, or after what it waits for was measured."""
    if isinstance(run.schedule, ReduceLROnPlateau):
        if run.monitored in row:
            run.schedule.step(row[run.monitored])
    elif isinstance(run.schedule, Scheduler) and row["kind"] == "epoch":
        run.schedule.step()
