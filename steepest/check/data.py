"""Rules about data: an order that never changes, and workers that hand out the same batches.

The first batches of a few epochs are looked at: some values of each row, as bytes. What they tell
is counted in bits: of rows that are all alike, equal order is no evidence.
"""

import itertools
import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from torch.utils.data.dataloader import _BaseDataLoaderIter

from steepest.check.graph import is_readable
from steepest.check.taps import Rules
from steepest.check.where import here

FIRST = 3  # batches of an epoch whose rows are compared
EPOCHS = 4  # of a dataset that are looked at
ROWS = 32  # of a batch
VALUES = 64  # of a row
AHEAD = 4  # times as many may be fetched before the first update
BITS = 40.0  # that an order must tell: 12 rows, all different
GROUPS = 3  # of equal batches, one batch from each worker
WORKERS = 16  # more of them are not looked at

Report = Callable[..., None]
Batch = tuple[tuple[bytes, ...], ...]
"""The rows of each tensor of a batch."""


class Epoch:
    """The first batches of an epoch.

    Attributes:
        where: the line that asks for batches.
        iterator: what hands them out; None after its end.
        batches: their rows.
        workers: that load them.
        asked: batches asked for so far.
        trains: optimizers that made an update in it.
    """

    def __init__(self, iterator: Any) -> None:
        self.where = here()
        self.iterator = weakref.ref(iterator)
        workers = iterator._num_workers
        self.workers = workers if workers <= WORKERS else 0
        self.batches: list[Batch] = []
        self.asked = 0
        self.trains: set[int] = set()

    @property
    def wanted(self) -> int:
        """How many batches are looked at."""
        return max(FIRST, GROUPS * self.workers)


class Data(Rules):
    """SC501 and SC502."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.step = 0
        self._numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._count = itertools.count()
        self._epochs: dict[int, tuple[Any, list[Epoch]]] = {}  # by the id of their dataset
        self._open: list[Epoch] = []
        _iterators.begin(self)

    def step_ends(self, optimizer: torch.optim.Optimizer) -> None:
        """Note that the epochs that are going on train."""
        self.step += 1
        if self._open:
            if optimizer not in self._numbers:
                self._numbers[optimizer] = next(self._count)
            number = self._numbers[optimizer]
            for epoch in self._open:
                epoch.trains.add(number)

    def finished(self) -> None:
        """Look at batches no more."""
        _iterators.end(self)

    # ---- called for each batch -----------------------------------------------------------------

    def begins(self, iterator: Any) -> Epoch | None:
        """Return the epoch that an iterator begins; None for one that is not looked at."""
        self._open = [epoch for epoch in self._open if epoch.iterator() is not None]
        epochs = self._of(iterator._dataset)
        if len(epochs) >= EPOCHS:
            return None
        epoch = Epoch(iterator)
        epochs.append(epoch)
        self._open.append(epoch)
        return epoch

    def came(self, iterator: Any, epoch: Epoch, batch: Any) -> None:
        """Look at a batch."""
        epoch.asked += 1
        if len(epoch.batches) < epoch.wanted:
            with torch.no_grad():
                epoch.batches.append(tuple(map(_rows, _tensors(batch))))
            if epoch.workers > 1 and len(epoch.batches) == GROUPS * epoch.workers:
                self._workers(epoch)
        elif epoch in self._open and (epoch.trains or epoch.asked > AHEAD * epoch.wanted):
            self._close(iterator, epoch)

    def ended(self, iterator: Any, epoch: Epoch) -> None:
        """Look at an epoch that was shorter than was to be looked at."""
        if epoch in self._open:
            self._close(iterator, epoch)

    # ---- rules -------------------------------------------------------------------------------

    def _close(self, iterator: Any, epoch: Epoch) -> None:
        """SC501: the same rows in the same order as in the epoch before."""
        self._open.remove(epoch)
        if isinstance(iterator._dataset, IterableDataset):
            return
        epochs = self._of(iterator._dataset)
        earlier = itertools.takewhile(lambda other: other is not epoch, epochs)
        before = [other for other in earlier if other.trains & epoch.trains][-1:]
        if not before or epoch.asked < 2 or len(before[0].batches) < 2:
            return
        rows = _same_order(before[0].batches[:FIRST], epoch.batches[:FIRST])
        if rows:
            self.report(
                "SC501",
                f"the first {rows} rows of this epoch come in the order of the epoch before",
                step=self.step,
                where=epoch.where,
            )

    def _workers(self, epoch: Epoch) -> None:
        """SC502: each worker hands out what the others do."""
        workers = epoch.workers
        groups = [epoch.batches[i : i + workers] for i in range(0, len(epoch.batches), workers)]
        firsts = [group[0] for group in groups]
        if any(batch != group[0] for group in groups for batch in group):
            return
        if len(set(firsts)) == len(firsts) and max(map(_bits, _columns(firsts)), default=0) > BITS:
            self.report(
                "SC502",
                f"{workers} workers hand out equal batches: of the first {len(epoch.batches)} "
                f"only {len(firsts)} differ",
                step=self.step,
                where=epoch.where,
            )

    def _of(self, dataset: Any) -> list[Epoch]:
        """Return what was seen of a dataset."""
        held, epochs = self._epochs.get(id(dataset), (_nothing, []))
        if held is not None and held() is not dataset:
            epochs = []
            self._epochs[id(dataset)] = _reference(dataset), epochs
        return epochs


def _nothing() -> None:
    return None


def _reference(dataset: Any) -> "weakref.ref[Any] | None":
    """Return a weak reference to a dataset; None for a list, which has none."""
    try:
        return weakref.ref(dataset)
    except TypeError:
        return None


def _tensors(batch: Any) -> Iterator[Tensor]:
    """Yield the tensors with rows in a batch, however they are nested."""
    if isinstance(batch, Tensor):
        if is_readable(batch) and batch.is_cpu and batch.dim() and not batch.is_sparse:
            yield batch
    elif isinstance(batch, Mapping):
        for one in batch.values():
            yield from _tensors(one)
    elif isinstance(batch, (list, tuple)):
        for one in batch:
            yield from _tensors(one)


def _rows(tensor: Tensor) -> tuple[bytes, ...]:
    """Return some values of the first rows, as bytes."""
    rows = tensor.detach()[:ROWS].reshape(min(ROWS, len(tensor)), -1)
    if rows.shape[1] > VALUES:
        rows = rows[:, :: rows.shape[1] // VALUES]
    plain = rows.contiguous().view(torch.uint8) if rows.numel() else rows.new_empty(0, 0)
    return tuple(bytes(row) for row in plain.tolist())


def _columns(batches: list[Batch]) -> list[list[bytes]]:
    """Return the rows of all batches together, for each tensor."""
    return [[row for rows in parts for row in rows] for parts in zip(*batches, strict=False)]


def _bits(rows: list[bytes]) -> float:
    """Return what the order of rows tells: nothing if all are alike."""
    return sum(-n * math.log2(n / len(rows)) for n in Counter(rows).values())


def _same_order(before: list[Batch], now: list[Batch]) -> int:
    """Return how many rows of a tensor are as before, where that is no chance; else 0."""
    for old, new in zip(_columns(before), _columns(now), strict=False):
        if old == new and _bits(new) > BITS and len(set(new)) > len(new) // 2:
            return len(new)
    return 0


# ---- iterators of torch's loaders --------------------------------------------------------------


class Iterators:
    """Shows each batch of a DataLoader to those who look."""

    def __init__(self) -> None:
        self._looking: dict[Data, weakref.WeakKeyDictionary[Any, Epoch | None]] = {}

    def begin(self, who: Data) -> None:
        """Show batches from now on."""
        if not self._looking:
            self._following = vars(_BaseDataLoaderIter)["__next__"]
            following, show = self._following, self._show

            def shown(iterator: Any) -> Any:
                begins = iterator._num_yielded == 0
                try:
                    batch = following(iterator)
                except StopIteration:
                    show(iterator, begins, None)
                    raise
                show(iterator, begins, [batch])
                return batch

            _BaseDataLoaderIter.__next__ = shown  # pyright: ignore
        self._looking[who] = weakref.WeakKeyDictionary()

    def end(self, who: Data) -> None:
        """Show no more, unless others look."""
        if self._looking.pop(who, None) is not None and not self._looking:
            _BaseDataLoaderIter.__next__ = self._following

    def _show(self, iterator: Any, begins: bool, batches: list[Any] | None) -> None:
        for data, epochs in list(self._looking.items()):
            if begins and batches is not None:
                epochs[iterator] = data.begins(iterator)
            epoch = epochs.get(iterator)
            if epoch is None:
                continue
            if batches is None:
                data.ended(iterator, epoch)
            else:
                data.came(iterator, epoch, batches[0])


_iterators = Iterators()
