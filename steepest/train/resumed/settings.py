"""The settings that decide a run's numbers, by names that a sentence can show."""

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from steepest.data import Batches
from steepest.optim import Optimizer
from steepest.train.kinds import Scheduler, length_of, plain
from steepest.train.run import Run

MOST_SAMPLED = 1024  # rows that tell data apart
MOST_BATCHES = 16  # of a list
MOST_SHAPES = 4  # that a sentence shows
ORDER = ("batch_size", "shuffle", "seed", "drop_last", "memory")
"""What decides the order of rows, in the attributes of what hands them out."""


def settings_of(run: Run) -> dict[str, Any]:
    """Return what decides a run's numbers, as plain values."""
    named = ("seed", "accumulate", "precision", "clip_norm", "compile", "validate_steps")
    return {
        "optimizer": type(run.optimizer).__name__,
        "number of batches": length_of(run.batches),
        "data": _data(run.batches),
        "kind of schedule": type(run.schedule).__name__,
        **({"schedule": repr(run.schedule)} if _shows_itself(run.schedule) else {}),
        **{f"the schedule's {name}": plain(v) for name, v in scheduler_options(run.schedule)},
        **{name: getattr(run, name) for name in named},
        "monitor": run.monitored,
        "mode": run.best_is,
        **{f"the optimizer's {name}": v for name, v in around_options(run.optimizer)},
        **dict(_options(run)),
    }


def scheduler_options(schedule: object) -> Iterator[tuple[str, Any]]:
    """Yield what a scheduler was made with, as far as it keeps that by the same names."""
    if isinstance(schedule, Scheduler):
        for name in inspect.signature(type(schedule)).parameters:
            if name in vars(schedule) and name not in ("optimizer", "last_epoch"):
                yield name, vars(schedule)[name]


def around_options(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Any]]:
    """Yield what an optimizer of steepest does besides its formula."""
    if isinstance(optimizer, Optimizer):
        around = optimizer.around
        told: dict[str, Any] = {
            "clip_norm": around.clip_norm,
            "skip_nonfinite": around.skip_nonfinite,
        }
        told |= {"average": around.extras.average, **dict(around.given)}
        yield from told.items()


def _data(batches: Any) -> str | None:
    """Tell data apart by its order and, of tensors, by shapes and a checksum of some rows."""
    tensors = [t for t in _some(batches) if isinstance(t, torch.Tensor) and t.ndim]
    told = [str(tuple(tensor.shape)) for tensor in tensors[:MOST_SHAPES]]
    order = {name: getattr(batches, name, None) for name in ORDER}
    told += [f"{name} {value}" for name, value in order.items() if isinstance(value, int)]
    if tensors and all(tensor.layout == torch.strided for tensor in tensors):
        told.append(f"checksum {_checksum(tensors)}")
    return ", ".join(told) or None


def _some(batches: Any) -> Iterable[Any]:
    """Return what tells data apart and can be had without drawing a random number."""
    if hasattr(batches, "blocks"):  # a Stream; the import of its class would import polars
        return batches.blocks.map(0)
    if isinstance(batches, list | tuple):
        first = batches[:MOST_BATCHES]
        return [part for batch in first if isinstance(batch, list | tuple) for part in batch]
    source = batches if isinstance(batches, Batches) else getattr(batches, "dataset", None)
    return getattr(source, "tensors", ())


def _checksum(tensors: Iterable[torch.Tensor]) -> str:
    import hashlib

    digest = hashlib.sha256()
    for tensor in tensors:
        some = tensor[:: max(1, len(tensor) // MOST_SAMPLED)].detach().cpu().contiguous()
        digest.update(some.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def _options(run: Run) -> Iterator[tuple[str, Any]]:
    """Yield each group's options as they were given, not as a schedule has changed them."""
    optimizer = run.optimizer
    scheduled = optimizer.scheduled.groups if isinstance(optimizer, Optimizer) else []
    for k, group in enumerate(optimizer.param_groups):
        moving = {"params", "param_names", "initial_lr", "schedule_step"}
        own = scheduled[k] if k < len(scheduled) else {}
        for name in filter(lambda name: _shows_itself(own[name]), own):
            yield f"schedule of {name} of param group {k}", repr(own[name])
        moving |= set(own)
        if _cycles_momentum(run.schedule):
            moving |= {"momentum", "betas"}
        for name, value in group.items():
            if name not in moving:
                started = group.get("initial_lr", value) if name == "lr" else value
                yield f"{name} of param group {k}", plain(started)


def _cycles_momentum(schedule: object) -> bool:
    """Tell whether a scheduler, or one that it joins, changes more than lr."""
    joined = getattr(schedule, "_schedulers", ())
    return bool(getattr(schedule, "cycle_momentum", False)) or any(map(_cycles_momentum, joined))


def _shows_itself(schedule: object) -> bool:
    return callable(schedule) and " at 0x" not in repr(schedule)
