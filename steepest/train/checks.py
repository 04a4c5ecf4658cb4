"""Whether the parts of a run fit together."""

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from steepest.errors import RecipeError
from steepest.optim import LBFGS, Optimizer
from steepest.train.device import choose_device
from steepest.train.kinds import Scheduler, length_of
from steepest.train.precision import PRECISIONS
from steepest.train.resumed.randomness import check_seed
from steepest.train.shown.loggers import LOGGERS

if TYPE_CHECKING:
    from steepest.train.run import Run


def check_run(run: "Run") -> None:
    """Check what can be before anything is computed.

    Raises:
        RecipeError: the parts do not fit together, or a number is out of its bounds.
    """
    for name in ("epochs", "steps", "validate_steps", "patience", "threads"):
        _check_number(name, getattr(run, name), whole=True, none=True)
    for name in ("accumulate", "log_steps"):
        _check_number(name, getattr(run, name), whole=True)
    for name in ("seconds", "clip_norm"):
        _check_number(name, getattr(run, name), none=True)
    _check_number("checkpoint_seconds", run.checkpoint_seconds, zero=True)
    _check_number("checkpoint_epochs", run.checkpoint_epochs, whole=True, none=True)
    _check_one_of("precision", run.precision, PRECISIONS)
    _check_one_of("compile", run.compile, (None, "step"))
    _check_one_of("mode", run.mode, (None, "min", "max"))
    if isinstance(run.log_to, str):
        raise RecipeError(
            f"log_to is a tuple of names: got {run.log_to!r}; write ({run.log_to!r},)"
        )
    for name in run.log_to:
        _check_one_of("log_to", name, LOGGERS)
    if run.seed is not None:
        check_seed(run.seed)
    choose_device(run.device)
    _check_compile(run)
    _check_limits(run)
    _check_measures(run)
    _check_schedule(run.schedule)
    _check_optimizer(run.optimizer, run.model)
    _check_clip(run.optimizer, run.clip_norm)
    _check_batches("batches", run.batches, run.epochs)
    if run.validation is not None:
        _check_batches("validation", run.validation, run.epochs)


def _check_compile(run: "Run") -> None:
    if run.compile is None:
        return
    if run.accumulate > 1 or run.precision == "float16":
        what = f"accumulate={run.accumulate}, precision={run.precision!r}"
        raise RecipeError(
            f"compile='step' makes a graph of one batch without a GradScaler: got {what}; "
            "leave one of the two out"
        )
    if choose_device(run.device).type != "cpu":
        raise RecipeError(
            f"compile='step' is for the CPU: got {choose_device(run.device)}; leave it out"
        )


def _check_limits(run: "Run") -> None:
    if run.epochs is None and run.steps is None and run.seconds is None:
        raise RecipeError("A run has an end: give epochs, steps or seconds")
    if run.resume and run.folder is None:
        raise RecipeError("A run resumes from its folder's checkpoint: give folder as well")
    if run.log_to and run.folder is None:
        raise RecipeError(f"log_to={', '.join(run.log_to)} needs a folder: give the run one")


def _check_measures(run: "Run") -> None:
    if run.validation is None and (run.metrics or run.validate_steps):
        what = ", ".join(run.metrics) or f"validate_steps={run.validate_steps}"
        raise RecipeError(
            f"Metrics are measured on validation batches: got {what} and no validation; give "
            "validation or leave them out"
        )
    if "loss" in run.metrics:
        raise RecipeError("A metric has a name of its own: got loss, which loss_fn has")
    if run.monitor != "loss" and run.monitor not in run.metrics:
        known = ", ".join(["loss", *run.metrics])
        raise RecipeError(f"monitor is one of {known}: got {run.monitor!r}")
    metric = run.metrics.get(run.monitor)
    known = getattr(metric, "higher_is_better", None) is not None  # a function does not say
    if metric is not None and run.mode is None and not known:
        raise RecipeError(
            f"monitor={run.monitor!r} is best at its minimum or its maximum: give mode, "
            "'min' or 'max'"
        )


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
