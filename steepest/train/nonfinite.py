"""What to say of a loss that is not finite: where it was, and what made it."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steepest.data.ordered import Ordered

MOST_ROWS = 5  # named in a sentence


def culprit(model: nn.Module, inputs: Sequence[Any], target: Any) -> str:
    """Say what is not finite in a batch: its inputs, a parameter, a module's output, or the loss.

    The model is run once more on the batch; its buffers are as before afterwards.
    """
    for what, part in [*((f"input {k}", x) for k, x in enumerate(inputs)), ("target", target)]:
        if not _finite(part):
            return f"the batch's {what} is not finite in its {_rows(part)}"
    for name, p in model.named_parameters():
        if not _finite(p):
            return f"the parameter {name} is not finite: an update before has made it so"
    found: list[str] = []
    with _watched(model, found), _unchanged(model), torch.no_grad():
        model(*inputs)
    if found:
        return f"the first output that is not finite is that of {found[0]}"
    return "every module's output is finite: it is the loss function's own"


def rows_in_data(batches: Any, epoch: int, batch: int, rows: int) -> str:
    """Name the rows of a batch, by their numbers in the data where those are known."""
    if not isinstance(batches, Ordered):
        return f"{rows} rows"
    first = batch * batches.batch_size
    numbers = batches.order(epoch)[first : first + rows].tolist()
    shown = ", ".join(map(str, numbers[:MOST_ROWS]))
    return f"rows {shown}{', ...' if rows > MOST_ROWS else ''} of the data"


@contextmanager
def _watched(model: nn.Module, found: list[str]) -> Iterator[None]:
    def look(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if not found and not all(_finite(part) for part in _tensors(output)):
            found.append(f"{name or 'the model'} ({type(module).__name__})")

    handles = [
        module.register_forward_hook(lambda m, i, o, name=name: look(name, m, i, o))
        for name, module in model.named_modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (tuple, list)):
        for part in output:
            yield from _tensors(part)
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))


def _finite(part: Any) -> bool:
    if isinstance(part, Tensor):
        return bool(torch.isfinite(part).all())
    return not isinstance(part, float) or math.isfinite(part)


def _rows(part: Any) -> str:
    if not isinstance(part, Tensor) or part.ndim == 0:
        return "value"
    bad = (~torch.isfinite(part)).flatten(1).any(1) if part.ndim > 1 else ~torch.isfinite(part)
    rows = bad.nonzero().flatten().tolist()
    shown = ", ".join(map(str, rows[:MOST_ROWS]))
    return f"row{'s' if len(rows) > 1 else ''} {shown}{', ...' if len(rows) > MOST_ROWS else ''}"
