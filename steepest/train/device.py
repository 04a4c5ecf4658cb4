"""Where a run computes, and how its batches get there."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steepest.errors import RecipeError


def choose_device(device: torch.device | str | None = None) -> torch.device:
    """Return `device`, or an accelerator where there is one, or the CPU.

    Raises:
        RecipeError: torch knows no such device, or this machine has none.
    """
    if device is None:
        found = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if found is None else found
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise RecipeError(
            f"device is one that torch has on this machine, as cpu always is: got {str(device)!r}; "
            "leave it out to have one chosen"
        ) from None
    return chosen


def moved(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Hand out batches with their tensors on the device.

    Raises:
        RecipeError: a batch is not a tuple or list `(*inputs, target)`.
    """
    on_cpu = device.type == "cpu"
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise RecipeError(
                "A batch is a tuple or a list (*inputs, target) of at least two: got "
                f"{_described(batch)}; give both in each batch"
            )
        yield batch if on_cpu else [_on(part, device) for part in batch]


def _on(part: Any, device: torch.device) -> Any:
    if isinstance(part, Tensor):
        return part.to(device, non_blocking=True)
    if isinstance(part, Mapping):
        return {key: _on(item, device) for key, item in part.items()}
    return [_on(item, device) for item in part] if isinstance(part, (tuple, list)) else part


def _described(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return f"a tensor of shape {tuple(batch.shape)}"
    if isinstance(batch, (tuple, list)):
        return f"a {type(batch).__name__} of {len(batch)}"
    return f"a {type(batch).__name__}"


MOST_PRODUCTS_OF_ONE_THREAD = 2_000_000  # with two threads no faster below, measured


def choose_threads(threads: int | None, model: nn.Module, batches: object) -> int:
    """Return `threads`; None takes one for a small model, for others as many as torch has.

    Small is a model of matrices and vectors with few products per batch: there two threads wait
    for each other longer than they compute.
    """
    if threads is not None:
        return threads
    rows = getattr(batches, "batch_size", None)
    parameters = list(model.parameters())
    plain = all(p.ndim <= 2 for p in parameters)  # a convolution uses each weight many times
    if not plain or not isinstance(rows, int):
        return torch.get_num_threads()
    products = rows * sum(p.numel() for p in parameters)
    return 1 if products < MOST_PRODUCTS_OF_ONE_THREAD else torch.get_num_threads()


@contextmanager
def computing_with(threads: int, deterministic: bool) -> Iterator[None]:
    """Have torch compute with so many threads, and only what can be repeated, within a `with`.

    Raises:
        RuntimeError: (torch's) an operation within has no repeatable form.
    """
    before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(threads)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as torch asks for it
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if deterministic:  # only then, as torch reads its compiler for it, which takes a second
            torch.use_deterministic_algorithms(strict, warn_only=warns)
