"""Checkpoints: one file, whole or absent, that holds no code.

A checkpoint is a safetensors file whose metadata tell what its tensors are to each other: `sealed`
writes the bytes and `unsealed` reads them, `tree` knows the state, `whole` puts files in place.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steepest.errors import CheckpointError
from steepest.train.files.sealed import Sealed, check_dense, where
from steepest.train.files.tree import Place, check_finite, flatten, unflatten
from steepest.train.files.unsealed import read_sealed
from steepest.train.files.whole import first_line, replacing, write_whole

__all__ = [
    "load_checkpoint",
    "load_weights",
    "save_checkpoint",
    "save_model",
    "save_weights",
    "write_whole",
]

STATE = "$state"  # the tensor that holds a long state's text: other names have no $
MOST_IN_HEADER = 2**20  # bytes of text, above which it is that tensor; the header has a limit


def save_checkpoint(path: Path | str, state: Mapping[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) to `path`, whole or not at all.

    A tensor comes back with its values, dtype, shape and order in memory, on the CPU, as one that
    needs no gradient. One that is there twice is written once and comes back as one.

    Raises:
        CheckpointError: the state holds an object that only code could restore, or the file
            cannot be written; an earlier checkpoint at `path` stays as it was.
    """
    tree, tensors = flatten(state)
    if len(tree) <= MOST_IN_HEADER:
        metadata = {"state": tree}
    else:
        metadata = {}
        tensors[STATE] = torch.frombuffer(bytearray(tree, "ascii"), dtype=torch.uint8)
    _write(path, Sealed("checkpoint", tensors, metadata))


def load_checkpoint(path: Path | str, finite: Iterable[Place] = ()) -> dict[str, Any]:
    """Return the state that `save_checkpoint` wrote to `path`, its tensors on the CPU.

    Args:
        path: the file.
        finite: places in the state where NaN and infinity are refused, each the keys that lead
            there: `[("model", "0.weight"), ("optimizer",)]`. A place that is absent is passed over.

    Raises:
        CheckpointError: there is no such file, it was cut short or changed, another program or a
            later version wrote it, or a number is not finite where it must be.
    """
    with _naming(path):
        tensors, metadata = read_sealed(path, "checkpoint")
        tree = metadata.get("state")
        if tree is None:
            tree = tensors.pop(STATE).numpy().tobytes().decode("ascii")
        state = unflatten(tree, tensors)
        for place in finite:
            check_finite(state, place)
    return state


def save_weights(path: Path | str, weights: Mapping[str, Any]) -> None:
    """Write the tensors of a state_dict to `path`, whole or not at all.

    Any safetensors reads them, and `safetensors.torch.load_model` loads them. Tied weights are
    written once. What else a state_dict holds (a module's extra state) is left out.

    Raises:
        CheckpointError: the file cannot be written, or safetensors has no such tensor.
    """
    first: dict[object, str] = {}
    kept: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    for name, tensor in weights.items():
        if isinstance(tensor, Tensor):
            check_dense(tensor, name)
            place = where(tensor)
            if place in first:
                tied[name] = first[place]
            else:
                first[place] = name
                kept[name] = tensor.resolve_conj().resolve_neg()
    _write(path, Sealed("weights", kept, {"tied": json.dumps(tied)}))


def load_weights(path: Path | str) -> dict[str, Tensor]:
    """Return the tensors that `save_weights` or `save_model` wrote to `path`, on the CPU.

    Raises:
        CheckpointError: as `load_checkpoint`; other programs' files are refused, too, as they have
            no checksums.
    """
    with _naming(path):
        tensors, metadata = read_sealed(path, "weights")
        tied = json.loads(metadata["tied"])
        return tensors | {name: tensors[first] for name, first in tied.items()}


def save_model(path: Path | str, model: nn.Module) -> None:
    """Write the model's parameters and buffers to `path`, as `save_weights` does.

    Raises:
        CheckpointError: as `save_weights`.
    """
    save_weights(path, model.state_dict())


def _write(path: Path | str, sealed: Sealed) -> None:
    with replacing(Path(path), sealed.size) as file:
        sealed.write(file)


@contextmanager
def _naming(path: Path | str) -> Iterator[None]:
    """Put the file's name before what is wrong with it; whatever is not as written is refused."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None
    except (OSError, MemoryError) as error:
        raise CheckpointError(f"{path} cannot be read: {first_line(error)}") from None
    except Exception as error:  # whatever a file made to harm leads to
        raise CheckpointError(
            f"{path} holds what steepest does not write ({type(error).__name__}: "
            f"{first_line(error)[:200]}); do not trust it"
        ) from None
