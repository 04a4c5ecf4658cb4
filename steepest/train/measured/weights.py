"""The weights of a model: as a validation measures them, and copied."""

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from steepest.optim import Optimizer


def averaged(optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
    """Swap in what the optimizer's parameters have come to, within a `with`, where it keeps that.

    That is the average of an optimizer of steepest with `average=`, and the point of evaluation of
    a schedule-free one; before its first step, and for all others, the parameters stay.
    """
    if not isinstance(optimizer, Optimizer) or not len(optimizer.state):
        return nullcontext()
    keeps = optimizer.averages or type(optimizer).stand_in is not None
    return optimizer.averaged() if keeps else nullcontext()


def copied(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a state_dict, in which tied weights are one as before."""
    clones: dict[object, Tensor] = {}  # a fifth of deepcopy's time
    return {name: _copied(value, clones) for name, value in weights.items()}


def _copied(value: Any, clones: dict[object, Tensor]) -> Any:
    if type(value) is not Tensor or value.layout is not torch.strided:
        return copy.deepcopy(value)
    here = (value.data_ptr(), value.shape, value.stride(), value.dtype)
    if here not in clones:
        clones[here] = value.clone()
    return clones[here]
