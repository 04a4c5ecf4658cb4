"""What to say of a loss that is not finite: where it was, and what made it."""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steepest.data.ordered import Ordered
from steepest.errors import RunError
from steepest.figures import counted
from steepest.train.measured.metrics import rows_of
from steepest.train.run import Run
from steepest.train.shown.progress import Place

MOST_ROWS = 5  # named in a sentence


def not_finite(
    run: Run, place: Place, loss: float, batch: tuple[Sequence[Any], Any] | None
) -> RunError:
    """Return the error of a loss that is not finite: epoch, step, rows, and what made it.

    `batch` is `(inputs, target)`; None where it is not there any more.
    """
    if batch is None:
        when, rows, why = "by", "", f", by when {spoilt(run.model)}"
    else:
        inputs, target = batch
        when, count = "at", rows_of(target)
        numbers = numbers_in_data(run.batches, place.epoch, place.batch, count)
        why = f", where {culprit(run.model, inputs, target, numbers)}"
        rows = (
            f", {counted(count, 'row')}"
            if numbers is None
            else f", {rows_named(numbers)} of the data"
        )
    todo = (
        "correct or remove those rows"
        if "the batch's" in why
        else f"lower lr ({finding_lr(run)} finds one), clip the gradients with clip_norm, or look "
        "for NaN in the data"
    )
    lr = float(run.optimizer.param_groups[0]["lr"])
    return RunError(
        f"The loss is a finite number at every step: it was {loss} {when} step {place.step + 1} "
        f"(epoch {place.epoch + 1}, lr {lr:.3g}{rows}){why}; {todo}"
    )


def finding_lr(run: Run) -> str:
    """Return what finds a learning rate for the run: a command where it came from one."""
    if not run.options or not {"recipe", "arguments"} <= run.options.keys():
        return "steepest.find_lr(run)"
    return shlex.join(["steepest", "find-lr", run.options["recipe"], *run.options["arguments"]])


def culprit(
    model: nn.Module, inputs: Sequence[Any], target: Any, numbers: Sequence[int] | None = None
) -> str:
    """Say what is not finite in a batch: its inputs, a parameter, a module's output, or the loss.

    The model is run once more on the batch; its buffers are as before afterwards. `numbers` are
    those of the batch's rows in the data, where they are known.
    """
    for what, part in [*((f"input {k}", x) for k, x in enumerate(inputs)), ("target", target)]:
        if not _finite(part):
            return f"the batch's {what} is not finite{_where(part, numbers)}"
    for name, p in model.named_parameters():
        if not _finite(p):
            return f"the parameter {name} is not finite: an update before has made it so"
    found: list[tuple[str, Any]] = []
    with _watched(model, found), _unchanged(model), torch.no_grad():
        model(*inputs)
    if found:
        name, output = found[0]
        return f"the first output that is not finite is that of {name}{_where(output, numbers)}"
    return (
        "every module's output is finite when it is run again: it is the loss function's own, or "
        "hangs on a random number"
    )


def spoilt(model: nn.Module) -> str:
    """Say which parameter or buffer of a model is the first that is not finite.

    Of buffers only those that hold NaN are told: one that is a mask may hold infinity.
    """
    for name, p in model.named_parameters():
        if not _finite(p):
            return f"the parameter {name} is not finite"
    for name, buffer in model.named_buffers():
        if bool(buffer.isnan().any()):
            return f"the buffer {name} is not finite"
    return "every parameter is finite"


def numbers_in_data(batches: Any, epoch: int, batch: int, rows: int) -> list[int] | None:
    """Return the numbers in the data of a batch's rows; None where they are not known."""
    if not isinstance(batches, Ordered):
        return None
    first = batch * batches.batch_size
    return batches.order(epoch)[first : first + rows].tolist()


def rows_named(numbers: Sequence[int]) -> str:
    """Return the numbers of a few rows, as words."""
    shown = ", ".join(map(str, numbers[:MOST_ROWS]))
    return f"row{'s' * (len(numbers) > 1)} {shown}{', ...' * (len(numbers) > MOST_ROWS)}"


@contextmanager
def _watched(model: nn.Module, found: list[tuple[str, Any]]) -> Iterator[None]:
    def look(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if not found and not _finite(output):
            found.append((f"{name or 'the model'} ({type(module).__name__})", output))

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


def _finite(part: Any) -> bool:
    if isinstance(part, Tensor):
        return bool(torch.isfinite(part).all())
    if isinstance(part, (tuple, list)):
        return all(map(_finite, part))
    if isinstance(part, Mapping):
        return all(map(_finite, part.values()))
    return not isinstance(part, float) or math.isfinite(part)


def _where(part: Any, numbers: Sequence[int] | None) -> str:
    """Say which rows of a tensor are not finite, by their numbers in the data or in the batch."""
    if not isinstance(part, Tensor) or part.ndim == 0:
        return ""
    bad = (~torch.isfinite(part)).flatten(1).any(1) if part.ndim > 1 else ~torch.isfinite(part)
    rows = bad.nonzero().flatten().tolist()
    if numbers is None or len(bad) != len(numbers):
        return f" in its {rows_named(rows)}"
    return f" in {rows_named([numbers[row] for row in rows])} of the data"
