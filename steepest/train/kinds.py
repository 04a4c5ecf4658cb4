"""What a run is made of, beside torch's own kinds."""

from collections.abc import Sized
from typing import Any, Protocol, runtime_checkable

import torch

Row = dict[str, Any]


@runtime_checkable
class Scheduler(Protocol):
    """A schedule with memory, stepped once per epoch, as in `torch.optim.lr_scheduler`."""

    def step(self, *args: Any) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


@runtime_checkable
class Transform(Protocol):
    """What was done to a table's columns, kept with the model (`steepest.data.Transform`)."""

    def to_json(self) -> str: ...


def length_of(batches: object) -> int | None:
    """Count the batches of an epoch; None where they cannot tell (a stream has no length)."""
    try:
        return len(batches) if isinstance(batches, Sized) else None
    except TypeError:  # a DataLoader over an IterableDataset
        return None


def plain(value: Any) -> Any:
    """Return a value as numbers, texts and lists of them, without an address in memory."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, (int, float, str, bool, type(None))):
        return value
    text = str(value)
    return type(value).__name__ if " at 0x" in text else text
