"""What a run is made of, as plain values: for its run.json, and for a reader at its start."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from steepest.data.ordered import Ordered
from steepest.optim import Optimizer
from steepest.train.kinds import Scheduler, length_of
from steepest.train.resumed.settings import around_options, scheduler_options
from steepest.train.run import Run

HOW = {"foreach", "fused", "capturable", "differentiable", "maximize"}
"""Options of torch's that tell nothing unless they are set."""


def summary_of(run: Run, device: torch.device, threads: int) -> dict[str, Any]:
    """Return what the run is made of, as plain values."""
    return {
        "device": str(device),
        "threads": threads,
        "precision": run.precision,
        "data": _data(run),
        "model": list(_modules(run.model)),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "optimizer": {
            "name": type(run.optimizer).__name__,
            "options": {name: value for name, value in around_options(run.optimizer) if value},
            "groups": [_group(group) for group in run.optimizer.param_groups],
        },
        "schedule": schedule_of(run),
        "monitor": {"name": run.monitored, "mode": run.best_is},
    }


def _data(run: Run) -> dict[str, Any]:
    size = getattr(run.batches, "batch_size", None)
    return {
        "rows": _rows(run.batches),
        "batches": length_of(run.batches),
        "batch_size": size if isinstance(size, int) else None,
        "validation_rows": None if run.validation is None else _rows(run.validation),
    }


def _rows(batches: Any) -> int | None:
    if isinstance(batches, Ordered):
        return batches.rows
    return length_of(getattr(batches, "dataset", None))


def _modules(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Yield the modules that hold parameters of their own."""
    for name, module in model.named_modules():
        own = list(module.named_parameters(recurse=False))
        if own:
            shape = " ".join(f"{key} {tuple(p.shape)}" for key, p in own)
            yield {
                "name": name or "model",
                "type": type(module).__name__,
                "shape": shape,
                "parameters": sum(p.numel() for _, p in own),
            }


def _group(group: Mapping[str, Any]) -> dict[str, Any]:
    options = {
        name: readable(value)
        for name, value in group.items()
        if not name.startswith("param") and value is not None and (value or name not in HOW)
    }
    numbers = sum(p.numel() for p in group["params"])
    return {"tensors": len(group["params"]), "parameters": numbers, "options": options}


def readable(value: Any) -> Any:
    """Return an option as a number, or else as text."""
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return value.item()
    return value if isinstance(value, (int, float, bool)) else str(value)


def schedule_of(run: Run) -> str:
    """Return the run's schedule, or the optimizer's own, in words; "constant" if there is none."""
    if run.schedule is None:
        own = run.optimizer.scheduled.groups[:1] if isinstance(run.optimizer, Optimizer) else []
        scheduled = [f"{name} by {_named(f)}" for found in own for name, f in found.items()]
        return ", ".join(scheduled) or "constant"
    if isinstance(run.schedule, Scheduler):
        options = [f"{name} {value}" for name, value in scheduler_options(run.schedule)]
        return f"{type(run.schedule).__name__}, {', '.join(options)}".rstrip(", ")
    return _named(run.schedule)


def _named(schedule: Any) -> str:
    shown = getattr(schedule, "__name__", None) or repr(schedule)
    return type(schedule).__name__ if " at 0x" in shown else shown
