"""From a run to the state that its checkpoint holds, and back."""

from collections.abc import Mapping
from typing import Any

import torch

from steepest.errors import CheckpointError, StateError
from steepest.train.run import Run, Scheduler, length_of


def state_of(run: Run, kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that continues the run bit for bit; `kept` is what its record adds."""
    return {
        "torch": str(torch.__version__),
        "model": run.model.state_dict(),
        "optimizer": {"name": _name(run.optimizer), "state": run.optimizer.state_dict()},
        "schedule": run.schedule.state_dict() if isinstance(run.schedule, Scheduler) else None,
        "seed": run.seed,
        "batches": length_of(run.batches),
        "kept": dict(kept),
    }


def restore(run: Run, state: Mapping[str, Any]) -> dict[str, Any]:
    """Put a checkpoint's state into the run's model, optimizer and schedule; return `kept`.

    Everything is compared first, so that a refusal changes nothing.

    Raises:
        CheckpointError: the checkpoint is of another model, optimizer, schedule, seed or data.
    """
    try:
        model, optimizer, kept = state["model"], state["optimizer"], state["kept"]
        schedule, seed, batches = state["schedule"], state["seed"], state["batches"]
    except KeyError as error:
        raise CheckpointError(f"The checkpoint has no {error}: it is of another version") from None
    _check_same("optimizer", optimizer["name"], _name(run.optimizer))
    _check_same("seed", seed, run.seed)
    _check_same("number of batches", batches, length_of(run.batches))
    _check_same("kind of schedule", schedule is not None, isinstance(run.schedule, Scheduler))
    _check_model(model, run.model.state_dict())
    if kept["place"][0] > run.epochs:
        raise CheckpointError(
            f"The checkpoint has {kept['place'][0]} epochs behind it: got epochs={run.epochs}; "
            "give at least as many"
        )
    try:  # first, as it is the one that may still refuse
        run.optimizer.load_state_dict(optimizer["state"])
    except (StateError, ValueError, KeyError) as error:
        raise CheckpointError(f"The checkpoint's optimizer state does not fit: {error}") from error
    run.model.load_state_dict(model)
    if isinstance(run.schedule, Scheduler):
        run.schedule.load_state_dict(schedule)
    return kept


def _check_same(what: str, then: object, now: object) -> None:
    if then != now:
        raise CheckpointError(
            f"A run resumes with the options that it had: the {what} was {then!r} and is now "
            f"{now!r}; give the same, or begin a new run"
        )


def _check_model(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in [*then, *now]:
        was, is_now = _shape(then.get(name)), _shape(now.get(name))
        if was != is_now:
            raise CheckpointError(
                f"A run resumes with the model that it had: {name} was {was} and is now {is_now}; "
                "give the same options, or begin a new run"
            )


def _shape(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)}".removeprefix("torch.")
    return "absent" if value is None else type(value).__name__


def _name(part: object) -> str:
    return type(part).__name__
