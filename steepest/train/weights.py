"""The weights of a model: as a validation measures them, copied, and as a safetensors file."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from steepest.optim import Optimizer
from steepest.train.checkpoint import write_whole


def averaged(optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
    """Swap in what the optimizer's parameters have come to, within a `with`, where it keeps that.

    That is the average of an optimizer of steepest with `average=`, and the point of evaluation of
    a schedule-free one; before its first step, and for all others, the parameters stay.
    """
    if not isinstance(optimizer, Optimizer) or not len(optimizer.state):
        return nullcontext()
    keeps = optimizer.averages or type(optimizer).stand_in is not None
    return optimizer.averaged() if keeps else nullcontext()


@torch.no_grad()
def copied(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state_dict whose tensors are copies."""
    return {name: v.clone() if isinstance(v, Tensor) else v for name, v in weights.items()}


def save_weights(path: Path | str, weights: Mapping[str, Any]) -> None:
    """Write the tensors of a state_dict to `path` as safetensors, whole or not at all.

    Tensors that share memory (tied weights) are written once for each name.

    Raises:
        CheckpointError: the file cannot be written.
    """
    tensors, written = {}, set()
    for name, value in weights.items():
        if isinstance(value, Tensor):
            own = value.detach().cpu().contiguous()
            shared = own.untyped_storage().data_ptr()
            tensors[name] = own.clone() if shared in written else own
            written.add(shared)
    write_whole(Path(path), lambda temporary: safetensors.torch.save_file(tensors, temporary))
