"""Averaged: what a training has come to swapped in for the parameters, and back.

That is the average of each parameter, or what an optimizer says stands for it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steepest.errors import StateError
from steepest.formula.extras import AVERAGE

if TYPE_CHECKING:
    from steepest.optim.optimizer import Optimizer

Pairs = Sequence[tuple[Tensor, Tensor]]


@contextmanager
def swapped(optimizer: "Optimizer") -> Iterator[None]:
    """Exchange every parameter with its average, within a `with`.

    Raises:
        StateError: there is no average (yet), or it is swapped in already.
    """
    name = type(optimizer).__name__
    if optimizer.swapped or optimizer.rests:
        raise StateError(
            f"{name}: the averages are swapped in already; end the first `with` before, or call "
            "train() after eval()"
        )
    pairs = [(p, entry[AVERAGE]) for p, entry in optimizer.state.items() if AVERAGE in entry]
    if not pairs:
        pairs = list(_standing_in(optimizer))
    if not pairs:
        raise StateError(
            f"{name}: there is no average to swap in; build it with average='ema' or 'mean' and "
            "make a step before"
        )
    _exchange(pairs)
    optimizer.swapped = True
    try:
        yield
    finally:
        _exchange(pairs[::-1])  # two parameters may share memory: last in, first out
        optimizer.swapped = False


@torch.no_grad()
def _standing_in(optimizer: "Optimizer") -> Iterator[tuple[Tensor, Tensor]]:
    """Return each parameter with what its optimizer says stands for it, computed here and now."""
    stand_in = type(optimizer).stand_in
    if stand_in is not None:
        for group in optimizer.param_groups:
            for p in group["params"]:
                there = stand_in(p.detach(), optimizer.state.get(p, {}), group)
                if there is not None:
                    yield p, there


@torch.no_grad()
def _exchange(pairs: Pairs) -> None:
    for p, average in pairs:
        kept = p.clone()
        p.copy_(average)
        average.copy_(kept)
