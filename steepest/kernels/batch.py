"""Batch: rows of a launch whose values torch computes together, stacked."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Rows that run together: one, or several of one shape, whose values for torch are stacked."""

    part: Any
    params: list[Tensor]
    states: list[tuple[Tensor, ...]]
    entries: list[dict[str, Any]]
    rows: slice
    elements: int
    handed: dict[str, Tensor]
    spread: bool
    """Whether values of rows and columns are spread over the elements for the kernels."""


def room(there: Tensor, params: list[Tensor]) -> Tensor:
    """Return room for a value of each parameter, stacked where there are several."""
    p, count = params[0], len(params)
    if count == 1:
        return there[: p.numel()].as_strided(p.shape, p.stride())
    return there[: count * p.numel()].view(count, *p.shape)


def stacked(tensors: list[Tensor]) -> Tensor:
    """Return one tensor as it is, several stacked."""
    return tensors[0].detach() if len(tensors) == 1 else torch.stack(tensors)


def keep(entries: list[dict[str, Any]], name: str, value: Tensor) -> None:
    """Store a state that torch has computed, in its own memory where it has some."""
    new = [value] if len(entries) == 1 else list(value.unbind())
    if entries[0].get(name) is None:  # as in all: they have one plan
        for entry, tensor in zip(entries, new, strict=True):
            entry[name] = tensor.clone()
    else:
        old = [entry[name] for entry in entries]
        torch._foreach_copy_(old, new)  # pyright: ignore[reportPrivateImportUsage]
