"""Batches of tensors that are already in memory.

`torch.utils.data.DataLoader` collates a batch row by row; here a few hundred batches at a time
are gathered with one `index_select` per tensor and handed out as views of the gathered rows.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor

from steepest.data.seeds import check_whole, generator
from steepest.errors import DataError
from steepest.figures import counted

# A gathered chunk that stays in the processor's cache and below the allocator's limit for
# returning memory to the system is 2 to 3 times faster than one gather of a large epoch.
CHUNK_BYTES = 4 * 2**20
CHUNK_BATCHES = 512

UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
"""The dtypes of which torch's index_select takes no vector; indexing does, more slowly."""


class Batches:
    """Hand out tensors of equal length `(n, ...)` in batches, in an order fixed by seed and epoch.

    Epoch `k` has the same order whenever and wherever it is asked for: a pure function of
    `(seed, k)` that neither reads nor moves torch's global random state.

    A batch is a tuple with one view per tensor. Shuffled batches are views of gathered copies:
    at any time at most 4 MiB of them, or one batch where that is larger (more only while the
    caller keeps batches), beside 8 bytes a row for the order. `shuffle=False` copies nothing:
    batches are views of the tensors themselves, so that writing to a batch writes to the data.

    Raises:
        DataError: no tensor, no row, unequal lengths, `batch_size` below 1, or no full batch
            where `drop_last` asks for full batches only.
    """

    def __init__(
        self,
        *tensors: Tensor,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        self.rows = _shared_length(tensors)
        check_whole("batch_size", batch_size, at_least=1)
        check_whole("seed", seed)
        if drop_last and batch_size > self.rows:
            raise DataError(
                f"Batches with drop_last need one full batch: got {counted(self.rows, 'row')} "
                f"and batch_size={batch_size}; lower batch_size or leave drop_last out"
            )
        self.tensors = tensors
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self._next_epoch = 0

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        full, rest = divmod(self.rows, self.batch_size)
        return full if self.drop_last or rest == 0 else full + 1

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Begin the next epoch: the first call gives epoch 0, the second epoch 1, and so on."""
        self._next_epoch += 1
        return self.epoch(self._next_epoch - 1)

    def epoch(self, n: int, *, start: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """Hand out the batches of epoch `n` from batch `start` on.

        Raises:
            DataError: `n` is negative, or `start` lies outside `0 ... len(batches)`.
        """
        check_whole("epoch", n, at_least=0)
        check_whole("start", start, at_least=0)
        if start > len(self):
            raise DataError(f"an epoch of {len(self)} batches cannot start at batch {start}")
        low, high = start * self.batch_size, self.rows
        if self.drop_last:
            high = len(self) * self.batch_size
        if self.shuffle:
            return gathered(self.tensors, self.order(n), self.batch_size, low, high)
        return chain.from_iterable(_views(self.tensors, self.batch_size, low, high))

    def to(self, device: torch.device | str) -> "Batches":
        """Return the same batches with the tensors on `device`: order and next epoch stay."""
        moved = Batches(
            *(tensor.to(device) for tensor in self.tensors),
            batch_size=self.batch_size,
            shuffle=self.shuffle,
            seed=self.seed,
            drop_last=self.drop_last,
        )
        moved._next_epoch = self._next_epoch
        return moved

    def order(self, n: int) -> Tensor:
        """Return the row numbers `(rows,)` of epoch `n`, on the CPU."""
        if not self.shuffle:
            return torch.arange(self.rows)
        return torch.randperm(self.rows, generator=generator("order", self.seed, n))


def gathered(
    tensors: Sequence[Tensor],
    order: Tensor,
    batch_size: int,
    low: int,
    high: int,
    finish: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[tuple[Tensor, ...]]:
    """Hand out copies of the rows `order[low:high]` of each tensor in batches.

    They are gathered a few hundred batches at a time. Batches lie side by side in one piece of
    memory, and still each may be changed in place, also while another is part of a graph.
    `finish` is applied to each gathered chunk: to pin it, or to move it to a device.
    """
    chunks = _gathered_chunks(tensors, order, batch_size, low, high, finish)
    return chain.from_iterable(chunks)


def _gathered_chunks(
    tensors: Sequence[Tensor],
    order: Tensor,
    batch_size: int,
    low: int,
    high: int,
    finish: Callable[[Tensor], Tensor] | None,
) -> Iterator[Iterator[tuple[Tensor, ...]]]:
    orders = {device: order.to(device) for device in {t.device for t in tensors}}
    step = batch_size * _batches_per_chunk(tensors, batch_size)
    for first in range(low, high, step):
        last = min(first + step, high)
        chunks = [picked(t, orders[t.device][first:last]) for t in tensors]
        if finish is not None:
            chunks = [finish(chunk) for chunk in chunks]
        # `split` would let a change of one batch in place spoil the backward pass of another.
        yield zip(*(torch.unsafe_split(chunk, batch_size) for chunk in chunks), strict=True)


def picked(tensor: Tensor, rows: Tensor) -> Tensor:
    """Copy rows of a tensor `(n, ...)` into a contiguous one."""
    if tensor.dtype in UNSIGNED:
        return tensor[rows]
    return tensor.index_select(0, rows)


def _views(
    tensors: Sequence[Tensor], batch_size: int, low: int, high: int
) -> Iterator[Iterator[tuple[Tensor, ...]]]:
    step = batch_size * CHUNK_BATCHES
    for first in range(low, high, step):
        last = min(first + step, high)
        yield zip(*(t[first:last].split(batch_size) for t in tensors), strict=True)


def _batches_per_chunk(tensors: Sequence[Tensor], batch_size: int) -> int:
    row_bytes = sum(t.nbytes // max(1, len(t)) for t in tensors)
    return max(1, min(CHUNK_BATCHES, CHUNK_BYTES // max(1, row_bytes * batch_size)))


def _shared_length(tensors: tuple[Tensor, ...]) -> int:
    if not tensors:
        raise DataError("Batches need at least one tensor: got none")
    for number, tensor in enumerate(tensors, 1):
        if not isinstance(tensor, Tensor):
            raise DataError(
                f"Batches are made of tensors: argument {number} is of type "
                f"{type(tensor).__name__}; convert it with torch.as_tensor"
            )
        if tensor.ndim == 0:
            raise DataError(f"Batches need tensors with rows: argument {number} has no dimension")
    lengths = [len(tensor) for tensor in tensors]
    if len(set(lengths)) > 1:
        raise DataError(f"Batches need tensors of equal length: got lengths {lengths}")
    if lengths[0] == 0:
        raise DataError("Batches need at least one row: got tensors of length 0")
    return lengths[0]
