"""Batches of rows on disk, in a shuffled order, with bounded memory."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from steepest.data.batches import gathered, picked
from steepest.data.blocks import Blocks
from steepest.data.seeds import check_whole, generator
from steepest.errors import DataError
from steepest.figures import counted

MEMORY = 256 * 2**20
LEAST_MEMORY = 32 * 2**20
BLOCKS_PER_BUFFER = 64


class Stream:
    """Hand out rows that lie on disk in batches, in an order fixed by seed and epoch.

    It is used as `Batches` is: epoch `k` has the same order whenever and wherever it is asked
    for, from any batch on (where `memory` is the same, too), and torch's global random state is
    left alone.

    Shuffled: the blocks of the file come in random order, some 64 at a time are read into a
    buffer, and the rows of a buffer are mixed wholly. So a batch holds rows from some 64 random
    places of the file; a table that fits into the buffer is shuffled as in memory. Of a file
    that is sorted the mix is good, but not that of `Batches`: rows of one block stay in the same
    buffer.

    At any time at most `memory` bytes are taken: a third of them for the buffer and the order of
    its rows, the rest for the batches that are handed out and what reading the table may have
    left (more only while the caller keeps batches, or where a batch takes more than an eighth of
    it). On a device, buffer and batches lie there.

    Raises:
        DataError: as `Batches`; or `memory` is below 32 MiB.
    """

    def __init__(
        self,
        blocks: Blocks,
        *,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        memory: int = MEMORY,
        device: torch.device | str = "cpu",
    ) -> None:
        check_whole("batch_size", batch_size, at_least=1)
        check_whole("seed", seed)
        check_memory(memory, LEAST_MEMORY)
        self.rows = blocks.rows
        if drop_last and batch_size > self.rows:
            raise DataError(
                f"A stream with drop_last needs one full batch: got {counted(self.rows, 'row')} "
                f"and batch_size={batch_size}; lower batch_size or leave drop_last out"
            )
        self.blocks = blocks
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.memory = memory
        self.device = torch.device(device)
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
            DataError: `n` is negative, or `start` lies outside `0 ... len(stream)`.
        """
        check_whole("epoch", n, at_least=0)
        check_whole("start", start, at_least=0)
        if start > len(self):
            raise DataError(f"an epoch of {len(self)} batches cannot start at batch {start}")
        return self._batches(n, start * self.batch_size)

    def order(self, n: int) -> Tensor:
        """Return the row numbers `(rows,)` of epoch `n`, on the CPU: 8 bytes a row."""
        found = []
        for number, blocks in enumerate(self._buffers(n)):
            first = [block * self.blocks.block_rows for block in blocks]
            ranges = zip(first, map(self.blocks.height, blocks), strict=True)
            rows = torch.cat([torch.arange(low, low + height) for low, height in ranges])
            found.append(rows[self._mixed(n, number, len(rows))])
        return torch.cat(found)

    def to(self, device: torch.device | str) -> "Stream":
        """Return the same stream with its buffer and batches on `device`."""
        moved = Stream(
            self.blocks,
            batch_size=self.batch_size,
            shuffle=self.shuffle,
            seed=self.seed,
            drop_last=self.drop_last,
            memory=self.memory,
            device=device,
        )
        moved._next_epoch = self._next_epoch
        return moved

    def _batches(self, n: int, skip: int) -> Iterator[tuple[Tensor, ...]]:
        """Hand out the batches of epoch `n` after its first `skip` rows."""
        size = self.batch_size
        buffer = self.blocks.buffer(self._blocks_per_buffer(), self.device)
        left: list[Tensor] = []  # rows of the buffers before, fewer than a batch
        for number, blocks in enumerate(self._buffers(n)):
            height = sum(map(self.blocks.height, blocks))
            if skip >= height:
                skip -= height
                continue
            tensors = self.blocks.read(blocks, buffer)
            order = self._mixed(n, number, height)[skip:]
            skip = 0
            if left:
                missing = size - len(left[0])
                left = _below(left, _picked(tensors, order[:missing]))
                order = order[missing:]
                if len(left[0]) < size:
                    continue
                yield tuple(left)
            full = len(order) // size * size
            yield from gathered(tensors, order, size, 0, full)
            left = _picked(tensors, order[full:]) if full < len(order) else []
        if left and not self.drop_last:
            yield tuple(left)

    def _buffers(self, n: int) -> Iterator[Sequence[int]]:
        """Return the blocks of each buffer of epoch `n`."""
        if not self.shuffle:
            return ([block] for block in range(len(self.blocks)))
        order = torch.randperm(len(self.blocks), generator=generator("blocks", self.seed, n))
        return (part.tolist() for part in order.split(self._blocks_per_buffer()))

    def _blocks_per_buffer(self) -> int:
        if not self.shuffle:
            return 1
        return max(
            1, self.memory // 3 // _buffer_bytes(self.blocks.row_bytes, self.blocks.block_rows)
        )

    def _mixed(self, n: int, buffer: int, rows: int) -> Tensor:
        """Return the order `(rows,)` of the rows of a buffer."""
        if not self.shuffle:
            return torch.arange(rows)
        return torch.randperm(rows, generator=generator(f"buffer {buffer}", self.seed, n))


def block_rows(row_bytes: int, memory: int) -> int:
    """Return how many rows a block has, so that 64 blocks make a buffer."""
    return max(1, memory // 3 // _buffer_bytes(row_bytes, BLOCKS_PER_BUFFER))


def _buffer_bytes(row_bytes: int, rows: int) -> int:
    """Return what rows take in a buffer, their order included."""
    return rows * (row_bytes + 8)


def check_memory(memory: int, least: int) -> None:
    """Refuse a bound on memory that cannot be kept.

    Raises:
        DataError: it is below `least`, or no whole number.
    """
    check_whole("memory", memory)
    if memory < least:
        raise DataError(f"memory is at least {least} bytes ({least >> 20} MiB): got {memory}")


def _picked(tensors: Sequence[Tensor], rows: Tensor) -> list[Tensor]:
    return [picked(tensor, rows.to(tensor.device)) for tensor in tensors]


def _below(upper: list[Tensor], lower: list[Tensor]) -> list[Tensor]:
    return [torch.cat(pair) for pair in zip(upper, lower, strict=True)]
