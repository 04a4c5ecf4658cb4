"""What a run is made of: for its run.json, and for a reader at its start."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from steepest.data.ordered import Ordered
from steepest.train.run import Run, length_of

Told = Mapping[str, Any]
MOST_MODULES = 20  # rows of the table of modules that are shown
HOW = {"foreach", "fused", "capturable", "differentiable", "maximize"}  # torch's, rarely telling


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
            "groups": [_group(group) for group in run.optimizer.param_groups],
        },
        "schedule": _schedule(run),
        "monitor": {"name": run.monitored, "mode": run.best_is},
    }


def show_opening(run: Run, device: torch.device, threads: int, notes: list[str]) -> None:
    """Print what the run is made of, and what its reader should know, to stderr."""
    from rich.console import Console

    told = summary_of(run, device, threads)
    console = Console(stderr=True, highlight=False)
    for line in _lines(told, run):
        console.print(line, markup=False, soft_wrap=True)
    if len(told["model"]) > 1:
        console.print(_table(told["model"]))
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def _lines(told: Told, run: Run) -> Iterator[str]:
    data = told["data"]
    parts = [f"{data['rows']:,} rows"] if data["rows"] is not None else []
    parts += [f"{data['batches']:,} batches of {data['batch_size']}"] if data["batch_size"] else []
    if data["validation_rows"] is not None:
        parts.append(f"{data['validation_rows']:,} validation rows")
    yield f"data       {', '.join(parts) or 'a stream'}"
    trained = sum(group["parameters"] for group in told["optimizer"]["groups"])
    yield f"model      {type(run.model).__name__}, {told['parameters']:,} parameters" + (
        f", {trained:,} trained" if trained != told["parameters"] else ""
    )
    for k, group in enumerate(told["optimizer"]["groups"]):
        name = f"optimizer  {told['optimizer']['name']}" if k == 0 else "          "
        shown = ", ".join(f"{key} {value}" for key, value in group["options"].items())
        yield f"{name}: {group['tensors']} tensors, {group['parameters']:,} parameters, {shown}"
    yield f"schedule   {told['schedule']}"
    yield f"device     {told['device']}, {_threads(told, run)}, {told['precision']}"


def _threads(told: Told, run: Run) -> str:
    threads = told["threads"]
    said = "1 thread" if threads == 1 else f"{threads} threads"
    if threads == 1 and run.threads is None and torch.get_num_threads() > 1:
        return f"{said} (for so small a model more are slower)"
    return said


def _table(modules: list[Told]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("module", "type", "shapes"):
        table.add_column(name)
    table.add_column("parameters", justify="right")
    for module in modules[:MOST_MODULES]:
        words = (module["name"], module["type"], module["shape"], f"{module['parameters']:,}")
        table.add_row(*words)
    if len(modules) > MOST_MODULES:
        table.add_row("...", f"{len(modules) - MOST_MODULES} more", "", "")
    return table


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


def _group(group: Told) -> dict[str, Any]:
    options = {
        name: value if isinstance(value, (int, float, bool)) else str(value)
        for name, value in group.items()
        if not name.startswith("param") and name not in HOW and value is not None
    }
    numbers = sum(p.numel() for p in group["params"])
    return {"tensors": len(group["params"]), "parameters": numbers, "options": options}


def _schedule(run: Run) -> str:
    if run.schedule is None:
        return "lr as the optimizer has it"
    named = getattr(run.schedule, "__name__", None)
    shown = named or repr(run.schedule)
    return type(run.schedule).__name__ if " at 0x" in shown else shown
