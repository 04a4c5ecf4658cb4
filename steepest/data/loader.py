"""torch's DataLoader, without its price for each row where the dataset is tensors in memory.

Every random number is drawn from the generator and in the order that torch draws it
(torch/utils/data/sampler.py and dataloader.py), so that batches and random states are torch's.
"""

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from operator import itemgetter
from typing import Any, TypeVar

import torch
import torch.utils.data as torchs
from torch import Tensor

from steepest.data.batches import gathered, picked
from steepest.data.seeds import check_whole

T = TypeVar("T", covariant=True)


class DataLoader(torchs.DataLoader[T]):
    """Load batches as `torch.utils.data.DataLoader` does; tensors in memory many times faster.

    All arguments are torch's. The fast path serves a `TensorDataset`, a tensor, or a `Subset` of
    either, with torch's default collating and any sampler; for everything else this is torch's
    own DataLoader. Batches, their order, their types and the random numbers drawn are the same.

    Differs from torch: the fast path starts no worker processes, whatever `num_workers` says;
    batches lie side by side in memory, at most 4 MiB of them gathered ahead.
    """

    _seeded = False

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Begin an epoch."""
        return self.epoch_from(0)

    def epoch_from(self, start: int) -> Iterator[Any]:
        """Begin an epoch without its first `start` batches, as if they had been handed out.

        The fast path neither reads nor copies them.

        Raises:
            DataError: `start` is negative or no whole number.
        """
        check_whole("start", start, at_least=0)
        rows = self._rows()
        if rows is None:
            return _without(super().__iter__(), start)
        epoch = iter(self._fetching(rows))  # draws the base seed, warns of what torch warns of
        order = _known_order(self.batch_sampler, len(rows))
        if order is None:
            return _without(epoch, start)
        pieces = self._pieces(rows, order, start)
        # What torch draws by now: with workers the order at once, else at the first batch.
        begun = [next(pieces)] if start or self.num_workers else []
        if start > _full(order):
            begun += islice(pieces, 1)
        return map(rows.batch, chain.from_iterable(chain(begun, pieces)))

    def _rows(self) -> "_Rows | None":
        """Return the dataset as tensors, where the fast path can serve it."""
        ours = (
            self.collate_fn is torchs.default_collate
            and self.batch_sampler is not None
            and self.worker_init_fn is None
        )
        return _rows_of(self.dataset) if ours else None

    def _fetching(self, rows: "_Rows") -> torchs.DataLoader[Any]:
        """Return torch's loader in this process that is given a batch at once."""
        generator = self.generator
        if self.persistent_workers and self._seeded:  # torch seeds workers once
            generator = torch.Generator()
        self._seeded = True
        return torchs.DataLoader(
            rows,
            batch_sampler=self.batch_sampler,
            collate_fn=_as_it_is,
            pin_memory=self.pin_memory,
            pin_memory_device=self.pin_memory_device,
            timeout=0 if self.num_workers else self.timeout,
            generator=generator,
        )

    def _pieces(
        self, rows: "_Rows", known: torchs.BatchSampler, start: int
    ) -> Iterator[Iterator[tuple[Tensor, ...]]]:
        """Hand out the full batches, then the short last one; draw as torch's sampler does."""
        size, full, drawn = known.batch_size, _full(known), _drawn(known)
        finish = _pinning(self)
        random = known.sampler if isinstance(known.sampler, torchs.RandomSampler) else None
        order = torch.arange(drawn) if random is None else _permutation(random)
        order = rows.of(order)
        yield gathered(rows.tensors, order, size, min(start, full) * size, full * size, finish)
        if random is not None and random.generator is not None:
            # The sampler looks for a second round of rows, of which it takes none.
            torch.randperm(drawn, generator=random.generator)
        if not known.drop_last:
            yield gathered(rows.tensors, order, size, max(start, full) * size, drawn, finish)


@dataclass(frozen=True)
class _Rows(torchs.Dataset[Any]):
    """Tensors whose rows are asked for batch by batch.

    Attributes:
        dataset: the user's, which answers for what is not plain.
        chosen: the rows of the tensors `(n,)` that a `Subset` has; None for all.
        batch: makes a batch, as torch's collating gives it, of one tensor for each of `tensors`.
    """

    dataset: Any
    tensors: tuple[Tensor, ...]
    batch: Callable[[tuple[Tensor, ...]], Any] = list
    chosen: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tensors[0] if self.chosen is None else self.chosen)

    def __getitems__(self, keys: Sequence[Any]) -> Any:
        index = _index(keys, len(self))
        if index is None:  # torch's own way, or its own refusal
            return torchs.default_collate([self.dataset[key] for key in keys])
        order = self.of(index)
        return self.batch(tuple(picked(t, order.to(t.device)) for t in self.tensors))

    def of(self, index: Tensor) -> Tensor:
        """Return the rows of the tensors that these rows of the dataset are."""
        return index if self.chosen is None else self.chosen[index]


def _rows_of(dataset: Any) -> _Rows | None:
    """Return a dataset as tensors; None if it is none of the kinds that are known to the last."""
    if type(dataset) is torchs.TensorDataset and all(map(_plain, dataset.tensors)):
        return _Rows(dataset, dataset.tensors)
    if type(dataset) is Tensor and _plain(dataset):
        return _Rows(dataset, (dataset,), itemgetter(0))
    if type(dataset) is torchs.Subset:
        whole = _rows_of(dataset.dataset)
        index = None if whole is None else _index(dataset.indices, len(whole))
        if whole is not None and index is not None:
            return _Rows(dataset, whole.tensors, whole.batch, whole.of(index))
    return None


def _plain(tensor: Tensor) -> bool:
    """Tell whether gathering gives what stacking rows gives, and no graph."""
    return (
        type(tensor) is Tensor
        and tensor.layout == torch.strided
        and tensor.ndim > 0
        and not (tensor.requires_grad or tensor.is_quantized or tensor.is_nested)
    )


def _index(keys: Any, length: int) -> Tensor | None:
    """Return keys of rows as numbers from 0 to below `length`; None if some are no such numbers."""
    try:
        numbers = array("q", keys.tolist() if isinstance(keys, Tensor) else keys)
        if not numbers:
            return None
        index = torch.frombuffer(numbers, dtype=torch.int64)
    except (TypeError, ValueError, OverflowError):
        return None
    lowest, highest = index.aminmax()
    return index if lowest >= 0 and highest < length else None


def _known_order(batches: Any, rows: int) -> torchs.BatchSampler | None:
    """Return torch's batch sampler if all its rows can be told at once, and lie among `rows`."""
    if type(batches) is not torchs.BatchSampler:
        return None
    sampler = batches.sampler
    if type(sampler) is torchs.SequentialSampler:
        return batches if len(sampler) <= rows else None
    if type(sampler) is not torchs.RandomSampler or sampler.replacement:
        return None
    return batches if sampler.num_samples == len(sampler.data_source) <= rows else None


def _drawn(known: torchs.BatchSampler) -> int:
    return len(known.sampler)  # type: ignore[arg-type]


def _full(known: torchs.BatchSampler) -> int:
    return _drawn(known) // known.batch_size


def _permutation(sampler: torchs.RandomSampler) -> Tensor:
    generator = sampler.generator
    if generator is None:
        seed = int(torch.empty((), dtype=torch.int64).random_().item())
        generator = torch.Generator().manual_seed(seed)
    return torch.randperm(len(sampler), generator=generator)


def _pinning(loader: DataLoader) -> Callable[[Tensor], Tensor] | None:
    """Return what pins a chunk of rows, where torch's loader would pin its batches."""
    device = torch.accelerator.current_accelerator(check_available=True)
    pins = loader.pin_memory and device is not None and device.type != "mps"
    return Tensor.pin_memory if pins else None


def _without(batches: Iterable[Any], start: int) -> Iterator[Any]:
    """Return the batches after the first `start`, which are read now."""
    epoch = iter(batches)
    deque(islice(epoch, start), maxlen=0)
    return epoch


def _as_it_is(batch: Any) -> Any:
    return batch
