"""What one training needs (`Run`) and what came of it (`Report`)."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from steepest.errors import RecipeError
from steepest.optim import LBFGS
from steepest.train.device import choose_device
from steepest.train.randomness import check_seed

Row = dict[str, Any]


@runtime_checkable
class Scheduler(Protocol):
    """A schedule with memory, stepped once per epoch, as in `torch.optim.lr_scheduler`."""

    def step(self, *args: Any) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


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
        validation: batches to measure after each epoch, in `eval` mode without gradients.
        epochs: how often to go through the batches.
        schedule: a function `step -> multiplier of lr`, asked before each update with the number
            of updates done; or a scheduler of `torch.optim.lr_scheduler`, stepped once per epoch
            (`ReduceLROnPlateau` is given the validation loss, without validation the train loss).
        clip_norm: the norm above which gradients are scaled down. An optimizer of
            `steepest.optim` does it faster with its own `clip_norm=`.
        metrics: name -> `(prediction, target) -> number`, a mean over the batch; measured on the
            validation batches.
        device: "cpu", "cuda", "mps", ...; None takes an accelerator where there is one.
        threads: CPU threads for torch while the run trains; None leaves torch's number. One is
            fastest for a small model, most of all on a machine that others use as well.
        seed: given to the random states of torch, numpy and Python at the start; None leaves them.
        name: what the run is called in its title and its lines.
        folder: where metrics, checkpoint, model and picture go; None keeps nothing.
        resume: go on from the folder's checkpoint.
        options: what the run was made with, kept in the folder as options.json once the run has
            been opened or restored; the command line gives its own.
        checkpoint_seconds: the seconds between two checkpoints; one more is written at the end.
        log_steps: how many updates one "step" line of metrics.jsonl sums up.
        progress: show a bar in a terminal, plain lines elsewhere (both on stderr).
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
    epochs: int = 10
    schedule: Callable[[int], float] | Scheduler | None = None
    clip_norm: float | None = None
    metrics: Mapping[str, Callable[..., Tensor | float]] = field(default_factory=dict)
    device: torch.device | str | None = None
    threads: int | None = None
    seed: int | None = 0
    name: str = "run"
    folder: Path | str | None = None
    resume: bool = False
    options: Mapping[str, Any] | None = None
    checkpoint_seconds: float = 60.0
    log_steps: int = 50
    progress: bool = True
    result: Callable[[Any], str] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_number("epochs", self.epochs, whole=True)
        _check_number("log_steps", self.log_steps, whole=True)
        _check_number("checkpoint_seconds", self.checkpoint_seconds, zero=True)
        if self.threads is not None:
            _check_number("threads", self.threads, whole=True)
        if self.seed is not None:
            check_seed(self.seed)
        if self.clip_norm is not None:
            _check_number("clip_norm", self.clip_norm)
        if self.resume and self.folder is None:
            raise RecipeError("A run resumes from its folder's checkpoint: give folder as well")
        if self.metrics and self.validation is None:
            raise RecipeError(
                f"Metrics are measured on validation batches: got {', '.join(self.metrics)} and "
                "no validation; give validation or leave metrics out"
            )
        choose_device(self.device)
        _check_schedule(self.schedule)
        _check_optimizer(self.optimizer, self.model)
        _check_batches("batches", self.batches, self.epochs)
        if self.validation is not None:
            _check_batches("validation", self.validation, self.epochs)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of a run.

    Attributes:
        name: the run's name.
        folder: where its files are, or None.
        steps: the updates done.
        history: one row per epoch: epoch, step, loss, lr, seconds, and with validation
            validation_loss and each metric as validation_<name>.
        seconds: the time taken, in seconds, all parts of a resumed run together.
        result: the recipe's own sentence about the trained model; may be empty.
    """

    name: str
    folder: Path | None
    steps: int
    history: list[Row]
    seconds: float
    result: str = ""

    @property
    def final(self) -> Row:
        """The last epoch's row."""
        return self.history[-1]

    @property
    def best(self) -> Row:
        """The row with the lowest validation loss, without validation with the lowest loss."""

        def loss(row: Row) -> float:
            value = row.get("validation_loss", row["loss"])
            return math.inf if value is None or math.isnan(value) else value

        return min(self.history, key=loss)


def length_of(batches: object) -> int | None:
    """Count the batches of an epoch; None where they cannot tell (a stream has no length)."""
    try:
        return len(batches) if isinstance(batches, Sized) else None
    except TypeError:  # a DataLoader over an IterableDataset
        return None


def _check_number(name: str, value: float, *, whole: bool = False, zero: bool = False) -> None:
    kind = int if whole else (int, float)
    rule = f"a {'whole ' if whole else ''}number {'of at least' if zero else 'above'} 0"
    good = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < 0 or (value == 0 and not zero):
        raise RecipeError(f"{name} is {rule}: got {value!r}")


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


def _check_batches(name: str, batches: Iterable[Any], epochs: int) -> None:
    if length_of(batches) == 0:
        raise RecipeError(f"{name} has no batch: give more rows, or a smaller batch size")
    if isinstance(batches, Iterator) and epochs > 1:
        raise RecipeError(
            f"{name} is read once per epoch: got an iterator, which can be read only once, and "
            f"epochs={epochs}; give a list, Batches or a DataLoader, or epochs=1"
        )
