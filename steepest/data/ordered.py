"""Ordered: what batches have whose order is a function of seed and epoch."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Ordered(Protocol):
    """Batches whose epochs can begin anywhere, as `Batches` and `Stream`.

    Attributes:
        rows: how many there are.
        batch_size: how many of them a batch has; the last one of an epoch may have fewer.
    """

    rows: int
    batch_size: int

    def epoch(self, n: int, *, start: int = 0) -> Iterator[Any]:
        """Hand out the batches of epoch `n` from batch `start` on."""
        ...

    def order(self, n: int) -> Tensor:
        """Return the row numbers `(rows,)` of epoch `n`."""
        ...
