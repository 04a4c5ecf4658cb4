"""From a run to the state that its checkpoint holds, and back."""

import platform
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from steepest.errors import CheckpointError
from steepest.optim import Optimizer
from steepest.train.kinds import Scheduler
from steepest.train.precision import Precision
from steepest.train.resumed.randomness import generators
from steepest.train.resumed.settings import scheduler_options, settings_of
from steepest.train.resumed.sound import check_fit, check_parts
from steepest.train.run import Run


def state_of(run: Run, precision: Precision, kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that continues the run bit for bit; `kept` is what its record adds."""
    scaler = precision.scaler
    return {
        "versions": versions(),
        "settings": settings_of(run),
        "parameters": _parameters(run),
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict() if isinstance(run.schedule, Scheduler) else None,
        "scaler": None if scaler is None else scaler.state_dict(),
        "kept": dict(kept),
    }


def restore(
    run: Run, precision: Precision, state: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Put a checkpoint's state into the run's parts.

    Returns `kept`, sentences on the settings that were overridden, and notes on the machine.

    Everything is compared first, so that a refusal changes nothing.

    Raises:
        CheckpointError: the checkpoint is of another model, optimizer, schedule, seed or data; or
            a setting differs and the run does not override it.
    """
    check_parts(state)
    then, kept, model = state["settings"], state["kept"], state["model"]
    optimizer, schedule, scaler = state["optimizer"], state["schedule"], state["scaler"]
    now = settings_of(run)
    changed = [key for key in {**now, **then} if then.get(key) != now.get(key)]
    told = [f"{key} was {then.get(key)!r} and is now {now.get(key)!r}" for key in changed]
    for weights in (model, kept["best"]["weights"]):
        if weights is not None:
            _check_model(weights, run.model.state_dict())
    _check_settings(run, changed, told)
    _check_parameters(state["parameters"], _parameters(run))
    _check_ends(run, kept)
    _check_generators(run, kept)
    _check_workers(run, kept)
    check_fit(run, state)
    groups = [dict(group) for group in run.optimizer.param_groups]
    scheduled = dict(scheduler_options(run.schedule))
    try:  # first, as it is the one that may still refuse
        run.optimizer.load_state_dict(optimizer)
    except Exception as error:  # StateError, or whatever another library's says of it
        raise CheckpointError(f"The checkpoint's optimizer state does not fit: {error}") from error
    run.model.load_state_dict(model)
    if isinstance(run.schedule, Scheduler) and schedule is not None:
        run.schedule.load_state_dict(schedule)
        for k, was in enumerate(optimizer["param_groups"]):  # one of several may have set its lr
            _set_lr(run.optimizer.param_groups[k], was["lr"])
            if k < len(getattr(run.schedule, "_last_lr", ())):
                run.schedule._last_lr[k] = was["lr"]  # pyright: ignore[reportAttributeAccessIssue]
    if kept["place"][2]:
        vars(run.optimizer)["_opt_called"] = True  # else torch's schedulers warn at an epoch's end
    _show_scheduled(run.optimizer, optimizer["param_groups"])
    _override(run, groups, scheduled, changed)
    if precision.scaler is not None and scaler is not None:
        precision.scaler.load_state_dict(scaler)
    return kept, told, _newer(state["versions"])


def versions() -> dict[str, str]:
    """Return what the last bits of a number depend on besides the program."""
    return {
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


FIXED = ("number of batches", "data", "optimizer", "kind of schedule")
"""What makes another run of it, so that no override helps."""


def _check_settings(run: Run, changed: list[str], told: list[str]) -> None:
    other = [sentence for key, sentence in zip(changed, told, strict=True) if key in FIXED]
    if other or (changed and not run.override):
        can = "" if other else ", begin a new run, or override"
        raise CheckpointError(
            f"A run resumes with the options that it had: {'; '.join(other or told)}; give the "
            f"same{can or ', or begin a new run'}"
        )


def _check_ends(run: Run, kept: Mapping[str, Any]) -> None:
    epoch, _, step, _ = kept["place"]
    for name, end, behind, what in (
        ("epochs", run.epochs, epoch, "epochs"),
        ("steps", run.steps, step, "updates"),
    ):
        if end is not None and behind > end:
            raise CheckpointError(
                f"The checkpoint has {behind} {what} behind it: got {name}={end}; "
                "give at least as many"
            )


def _check_generators(run: Run, kept: Mapping[str, Any]) -> None:
    was, is_now = len(kept["random"]["loader"]), len(list(generators(run.batches)))
    if was != is_now:
        raise CheckpointError(
            f"A run resumes with a loader that has as many generators: got {is_now} where it had "
            f"{was}; give the loader and its samplers the generators that they had"
        )


def _check_workers(run: Run, kept: Mapping[str, Any]) -> None:
    """Refuse what the workers of a loader have drawn since they began, which only they know."""
    lives = getattr(run.batches, "persistent_workers", False)
    dataset = getattr(run.batches, "dataset", None)
    if lives and kept["place"][0] and type(dataset) is not TensorDataset and not run.override:
        raise CheckpointError(
            "A run resumes with the random numbers that it had: persistent workers keep theirs to "
            f"themselves, and {type(dataset).__name__} may draw some; begin a new run without "
            "persistent_workers, or override"
        )


def _check_model(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in [*then, *now]:
        was, is_now = _shape(then.get(name)), _shape(now.get(name))
        if was != is_now:
            raise CheckpointError(
                f"A run resumes with the model that it had: {_shown(name)} was {was} and is now "
                f"{is_now}; give the same options, or begin a new run"
            )


def _check_parameters(then: list[Any], now: list[Any]) -> None:
    """Refuse another order too, which would give a parameter another one's state."""
    for k in range(max(len(then), len(now))):
        was, is_now = (listed[k] if k < len(listed) else "absent" for listed in (then, now))
        if was != is_now:
            raise CheckpointError(
                "A run resumes with an optimizer over the same parameters in the same order: "
                f"number {k} was {was} and is now {is_now}; build it as it was built"
            )


def _parameters(run: Run) -> list[str]:
    """Return name and shape of the optimizer's parameters, in its order."""
    names = {id(p): name for name, p in run.model.named_parameters()}
    every = [p for group in run.optimizer.param_groups for p in group["params"]]
    return [f"{names.get(id(p), 'a tensor')} {tuple(p.shape)}" for p in every]


def _show_scheduled(optimizer: torch.optim.Optimizer, saved: list[dict[str, Any]]) -> None:
    """Have groups show what their schedules gave last, which an epoch's end tells."""
    if isinstance(optimizer, Optimizer):
        groups = zip(optimizer.param_groups, optimizer.scheduled.groups, saved, strict=True)
        for group, found, was in groups:
            group.update({name: was[name] for name in found if name in was})


def _override(
    run: Run, groups: list[dict[str, Any]], scheduled: dict[str, Any], changed: list[str]
) -> None:
    """Put what was changed on purpose over what the checkpoint had."""
    for name in [name for name in scheduled if f"the schedule's {name}" in changed]:
        setattr(run.schedule, name, scheduled[name])
    for k, (group, given) in enumerate(zip(run.optimizer.param_groups, groups, strict=True)):
        for name in [name for name in given if f"{name} of param group {k}" in changed]:
            if name == "lr" and "initial_lr" in group:
                _override_lr(run, k, given)
            else:
                group[name] = given[name]


def _override_lr(run: Run, k: int, given: Mapping[str, Any]) -> None:
    """Give a scheduled group another lr to start from, as if it had had it from the start."""
    group, first = run.optimizer.param_groups[k], float(given.get("initial_lr", given["lr"]))
    lr = float(group["lr"]) * first / group["initial_lr"] if group["initial_lr"] else first
    group["initial_lr"] = first
    _set_lr(group, lr)
    for name, value in (("base_lrs", first), ("_last_lr", lr)):
        if k < len(getattr(run.schedule, name, ())):
            getattr(run.schedule, name)[k] = value


def _set_lr(group: dict[str, Any], lr: Any) -> None:
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr


def _newer(then: Mapping[str, str]) -> list[str]:
    now = versions()
    changed = [f"{key} {then.get(key)} to {now[key]}" for key in now if then.get(key) != now[key]]
    if not changed:
        return []
    return [f"the machine changed ({', '.join(changed)}): the last bits of numbers may differ"]


def _shown(name: object) -> str:
    """Return a name of a checkpoint, which may be any, as a part of a sentence."""
    plain = isinstance(name, str) and name.isprintable() and len(name) <= 200
    return str(name) if plain else reprlib.repr(name)


def _shape(value: object) -> str:
    if isinstance(value, torch.Tensor):
        layout = "" if value.layout is torch.strided else f" {value.layout}"
        return f"{value.dtype} {tuple(value.shape)}{layout}".replace("torch.", "")
    return "absent" if value is None else type(value).__name__
