"""What one training needs (`Run`) and what came of it (`Report`)."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from steepest.errors import RecipeError
from steepest.optim import LBFGS, Optimizer
from steepest.train.device import choose_device
from steepest.train.measured.measures import Measure
from steepest.train.precision import PRECISIONS
from steepest.train.resumed.randomness import check_seed
from steepest.train.shown.loggers import LOGGERS

Row = dict[str, Any]


@runtime_checkable
class Scheduler(Protocol):
    """A schedule with memory, stepped once per epoch, as in `torch.optim.lr_scheduler`."""

    def step(self, *args: Any) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


@runtime_checkable
class Transform(Protocol):
    """What was done to a table's columns, kept with the model (`steepest.data.Transform`)."""

    def to_json(self) -> str: ...


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
    log_steps: int = 50
    log_to: tuple[str, ...] = ()
    progress: bool = True
    result: Callable[[Any], str] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "validate_steps", "patience", "threads"):
            _check_number(name, getattr(self, name), whole=True, none=True)
        for name in ("accumulate", "log_steps"):
            _check_number(name, getattr(self, name), whole=True)
        for name in ("seconds", "clip_norm"):
            _check_number(name, getattr(self, name), none=True)
        _check_number("checkpoint_seconds", self.checkpoint_seconds, zero=True)
        _check_number("checkpoint_epochs", self.checkpoint_epochs, whole=True, none=True)
        _check_one_of("precision", self.precision, PRECISIONS)
        _check_one_of("compile", self.compile, (None, "step"))
        _check_one_of("mode", self.mode, (None, "min", "max"))
        if isinstance(self.log_to, str):
            raise RecipeError(
                f"log_to is a tuple of names: got {self.log_to!r}; write ({self.log_to!r},)"
            )
        for name in self.log_to:
            _check_one_of("log_to", name, LOGGERS)
        if self.seed is not None:
            check_seed(self.seed)
        choose_device(self.device)
        self._check_compile()
        self._check_limits()
        self._check_measures()
        _check_schedule(self.schedule)
        _check_optimizer(self.optimizer, self.model)
        _check_clip(self.optimizer, self.clip_norm)
        _check_batches("batches", self.batches, self.epochs)
        if self.validation is not None:
            _check_batches("validation", self.validation, self.epochs)

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

    def _check_compile(self) -> None:
        if self.compile is None:
            return
        if self.accumulate > 1 or self.precision == "float16":
            what = f"accumulate={self.accumulate}, precision={self.precision!r}"
            raise RecipeError(
                f"compile='step' makes a graph of one batch without a GradScaler: got {what}; "
                "leave one of the two out"
            )
        if choose_device(self.device).type != "cpu":
            raise RecipeError(
                f"compile='step' is for the CPU: got {choose_device(self.device)}; leave it out"
            )

    def _check_limits(self) -> None:
        if self.epochs is None and self.steps is None and self.seconds is None:
            raise RecipeError("A run has an end: give epochs, steps or seconds")
        if self.resume and self.folder is None:
            raise RecipeError("A run resumes from its folder's checkpoint: give folder as well")
        if self.log_to and self.folder is None:
            raise RecipeError(f"log_to={', '.join(self.log_to)} needs a folder: give the run one")

    def _check_measures(self) -> None:
        if self.validation is None and (self.metrics or self.validate_steps):
            what = ", ".join(self.metrics) or f"validate_steps={self.validate_steps}"
            raise RecipeError(
                f"Metrics are measured on validation batches: got {what} and no validation; give "
                "validation or leave them out"
            )
        if "loss" in self.metrics:
            raise RecipeError("A metric has a name of its own: got loss, which loss_fn has")
        if self.monitor != "loss" and self.monitor not in self.metrics:
            known = ", ".join(["loss", *self.metrics])
            raise RecipeError(f"monitor is one of {known}: got {self.monitor!r}")
        metric = self.metrics.get(self.monitor)
        known = getattr(metric, "higher_is_better", None) is not None  # a function does not say
        if metric is not None and self.mode is None and not known:
            raise RecipeError(
                f"monitor={self.monitor!r} is best at its minimum or its maximum: give mode, "
                "'min' or 'max'"
            )


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


def length_of(batches: object) -> int | None:
    """Count the batches of an epoch; None where they cannot tell (a stream has no length)."""
    try:
        return len(batches) if isinstance(batches, Sized) else None
    except TypeError:  # a DataLoader over an IterableDataset
        return None


def _check_number(
    name: str, value: Any, *, whole: bool = False, zero: bool = False, none: bool = False
) -> None:
    if none and value is None:
        return
    kind = int if whole else (int, float)
    rule = f"a {'whole ' if whole else ''}number {'of at least' if zero else 'above'} 0"
    good = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < 0 or (value == 0 and not zero):
        raise RecipeError(f"{name} is {rule}: got {value!r}")


def _check_one_of(name: str, value: object, known: Iterable[object]) -> None:
    if value not in known:
        shown = ", ".join(repr(word) for word in known)
        raise RecipeError(f"{name} is one of {shown}: got {value!r}")


def _check_schedule(schedule: object) -> None:
    if schedule is None or callable(schedule) or isinstance(schedule, Scheduler):
        return
    raise RecipeError(
        "schedule is a function `step -> multiplier` or a scheduler as in "
        f"torch.optim.lr_scheduler: got {type(schedule).__name__}"
    )


def _check_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    if isinstance(optimizer, torch.optim.LBFGS | LBFGS):
        raise RecipeError(
            "The loop gives its optimizer no closure, which LBFGS needs: take another, such as "
            "Adam, or call LBFGS in a loop of your own"
        )
    own = {id(p) for p in model.parameters()}
    updated = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not own & updated:
        raise RecipeError(
            "The optimizer updates the model's parameters: got one that holds none of them; "
            "build it from this model's `model.parameters()`"
        )


def _check_clip(optimizer: torch.optim.Optimizer, clip_norm: float | None) -> None:
    if clip_norm is not None and isinstance(optimizer, Optimizer) and optimizer.clip_norm:
        raise RecipeError(
            f"Gradients are clipped once: got clip_norm={clip_norm} and an optimizer with "
            f"clip_norm={optimizer.clip_norm}; leave the first one out"
        )


def _check_batches(name: str, batches: Iterable[Any], epochs: int | None) -> None:
    if length_of(batches) == 0:
        raise RecipeError(f"{name} has no batch: give more rows, or a smaller batch size")
    if isinstance(batches, Iterator) and epochs != 1:
        raise RecipeError(
            f"{name} is read once per epoch: got an iterator, which can be read only once, and "
            f"epochs={epochs}; give a list, Batches or a DataLoader, or epochs=1"
        )
