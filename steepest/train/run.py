"""What one training needs (`Run`) and what came of it (`Report`)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from steepest.train.checks import check_run
from steepest.train.kinds import Row, Scheduler, Transform
from steepest.train.measured.measures import Measure


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that one training needs.

    A batch is a tuple or a list `(*inputs, target)`; the model is called with the inputs and
    `loss_fn(prediction, target)` gives one number, the mean over the batch.

    Attributes:
        model: the module to train; it is moved to the device.
        optimizer: any `torch.optim.Optimizer` over the model's parameters.
        loss_fn: `(prediction, target) -> loss`, a scalar tensor.
        batches: what to train on: `steepest.data.Batches`, a `DataLoader`, or any iterable that
            can be read once per epoch.
        validation: batches to measure after each epoch, in `eval` mode without gradients; with
            the average of the parameters where the optimizer keeps one.
        validate_steps: measure them every so many updates instead, and at the end.
        metrics: name -> `(prediction, target) -> number`, a mean over the batch, or name -> a
            metric of torchmetrics; `steepest.train.metrics_for` gives those of a task.
        epochs: how often to go through the batches; None leaves the end to steps or seconds.
        steps: the most updates.
        seconds: the longest time, in seconds, all parts of a resumed run together.
        patience: end after so many validations (without validation: epochs) in a row that were no
            better than the best one; None does not.
        monitor: what is watched for the best weights and for patience: "loss" or a metric's name.
        mode: whether that is best at its "min" or its "max"; None asks torchmetrics, and takes
            "min" for the loss.
        schedule: a function `step -> multiplier of lr`, asked before each update with the number
            of updates done; or a scheduler of `torch.optim.lr_scheduler`, stepped once per epoch
            (`ReduceLROnPlateau` after each validation, with what is watched).
        clip_norm: the norm above which gradients are scaled down. An optimizer of
            `steepest.optim` does it faster with its own `clip_norm=`.
        accumulate: how many batches make an update; each counts by its rows, so the update is
            that of one large batch (layers that look at a whole batch, as BatchNorm does, aside).
        precision: "float32"; or "bfloat16" or "float16" for automatic mixed precision, the latter
            with torch's GradScaler.
        compile: "step" makes one graph of forward, loss, backward, clip and the optimizer's
            formula; it takes seconds to make.
        deterministic: refuse operations of torch that may give other numbers the next time.
        device: "cpu", "cuda", "mps", ...; None takes an accelerator where there is one.
        threads: CPU threads for torch while the run trains; None takes one for a small model,
            which two slow down, and torch's number for others.
        seed: given to the random states of torch, numpy and Python at the start; None leaves them.
        name: what the run is called in its title and its lines.
        folder: where metrics, checkpoints, models and picture go; None keeps nothing.
        resume: go on from the folder's newest checkpoint.
        override: let a resumed run have other settings than the run had, and note them.
        options: what the run was made with, kept in the folder as options.json once the run has
            been opened or restored; the command line gives its own.
        transform: what was done to the data's columns, kept in the folder as transform.json.
        checkpoint_seconds: the seconds between two checkpoints; one more is written at the end.
        checkpoint_epochs: write one after every so many epochs, too.
        log_steps: how many updates one "step" line of metrics.jsonl sums up.
        log_to: where else metrics go: "tensorboard", "mlflow", "wandb".
        progress: show a summary and a bar in a terminal, plain lines elsewhere (all on stderr).
        result: `model -> sentence` for the summary.
        notes: sentences about the data or the model, for the reader of the command line.

    Raises:
        RecipeError: the parts do not fit together, or a number is out of its bounds.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss_fn: Callable[..., Tensor]
    batches: Iterable[Any]
    validation: Iterable[Any] | None = None
    validate_steps: int | None = None
    metrics: Mapping[str, Measure] = field(default_factory=dict)
    epochs: int | None = 10
    steps: int | None = None
    seconds: float | None = None
    patience: int | None = None
    monitor: str = "loss"
    mode: Literal["min", "max"] | None = None
    schedule: Callable[[int], float] | Scheduler | None = None
    clip_norm: float | None = None
    accumulate: int = 1
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: Literal["step"] | None = None
    deterministic: bool = False
    device: torch.device | str | None = None
    threads: int | None = None
    seed: int | None = 0
    name: str = "run"
    folder: Path | str | None = None
    resume: bool = False
    override: bool = False
    options: Mapping[str, Any] | None = None
    transform: Transform | None = None
    checkpoint_seconds: float = 60.0
    checkpoint_epochs: int | None = None
    log_steps: int = 100
    log_to: tuple[str, ...] = ()
    progress: bool = True
    result: Callable[[Any], str] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_run(self)

    @property
    def monitored(self) -> str:
        """The key of what is watched in a row of metrics."""
        return self.monitor if self.validation is None else f"validation_{self.monitor}"

    @property
    def best_is(self) -> Literal["min", "max"]:
        """Whether what is watched is best at its minimum or its maximum."""
        if self.mode is not None:
            return self.mode
        higher = getattr(self.metrics.get(self.monitor), "higher_is_better", False)
        return "max" if higher else "min"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of a run.

    Attributes:
        name: the run's name.
        folder: where its files are, or None.
        steps: the updates done.
        history: one row per epoch (the last may be a part of one): epoch, step, samples, loss, lr,
            seconds, and with validation validation_loss and each metric as validation_<name>.
        best: the row of the best validation, by what the run watched; without validation that of
            the epoch with the lowest loss.
        ended: why the run ended: "epochs", "steps", "seconds" or "patience".
        seconds: the time taken, in seconds, all parts of a resumed run together.
        result: the recipe's own sentence about the trained model; may be empty.
        notes: what its reader should know: whether compiling paid, what to try.
    """

    name: str
    folder: Path | None
    steps: int
    history: list[Row]
    best: Row
    seconds: float
    ended: str = "epochs"
    result: str = ""
    notes: tuple[str, ...] = ()

    @property
    def final(self) -> Row:
        """The last epoch's row."""
        return self.history[-1]
