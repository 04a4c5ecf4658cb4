"""DataLoader: torch's batches, order, types and random numbers, whichever path it takes."""

import inspect
import pickle
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data as torchs
from torch import Tensor

from steepest.data import DataLoader, batches, loader
from steepest.errors import DataError

ROWS = 23
X, Y = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(1)), torch.arange(ROWS)
PAIR = torchs.TensorDataset(X, Y)
PART = torchs.Subset(PAIR, [5, 5, 22, 0, 13, 7, 8, 9, 1, 2])


class Rows(torchs.Dataset):
    """A dataset that only torch's own path can serve."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> tuple[Tensor, float]:
        return X[row] + torch.rand(()), 0.5 * row


class Doubled(torchs.TensorDataset):
    def __getitem__(self, row):
        return tuple(2 * part for part in super().__getitem__(row))


class Endless(torchs.IterableDataset):
    def __iter__(self):
        return iter(torch.arange(10))


def split() -> torchs.Dataset:
    part, _ = torchs.random_split(PAIR, [0.7, 0.3], torch.Generator().manual_seed(3))
    return torchs.random_split(part, [10, 7], torch.Generator().manual_seed(4))[0]


def pairs(batch: list[Any]) -> list[Any]:
    return batch


def drawn(*, replacement: bool = False, own: bool = False, number: int | None = None) -> Any:
    generator = torch.Generator().manual_seed(6) if own else None
    return torchs.RandomSampler(PAIR, replacement, number, generator)


def weighted() -> Any:
    return torchs.WeightedRandomSampler(range(ROWS), 31)


def given(**arguments: Any) -> dict[str, Any]:
    return arguments


GATHERED: dict[str, Callable[[], Any]] = {
    "plain": lambda: given(dataset=PAIR),
    "in order": lambda: given(dataset=PAIR, batch_size=4),
    "in order, short dropped": lambda: given(dataset=PAIR, batch_size=4, drop_last=True),
    "no short batch": lambda: given(dataset=PART, batch_size=5, shuffle=True),
    "shuffled": lambda: given(dataset=PAIR, batch_size=4, shuffle=True),
    "shuffled, short dropped": lambda: given(
        dataset=PAIR, batch_size=4, shuffle=True, drop_last=True
    ),
    "own generator": lambda: given(
        dataset=PAIR, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(5)
    ),
    "own generator, short dropped": lambda: given(
        dataset=PAIR,
        batch_size=4,
        shuffle=True,
        drop_last=True,
        generator=torch.Generator().manual_seed(5),
    ),
    "own generator, no short batch": lambda: given(
        dataset=PART, batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(5)
    ),
    "own generator in order": lambda: given(dataset=PAIR, generator=torch.Generator()),
    "own generator of the sampler": lambda: given(
        dataset=PAIR, batch_size=4, sampler=drawn(own=True)
    ),
    "one batch": lambda: given(dataset=PAIR, batch_size=50, shuffle=True),
    "no full batch": lambda: given(dataset=PAIR, batch_size=50, shuffle=True, drop_last=True),
    "subset": lambda: given(dataset=PART, batch_size=3),
    "split of a split": lambda: given(dataset=split(), batch_size=2, shuffle=True),
    "subset of an array": lambda: given(dataset=torchs.Subset(PAIR, np.arange(5)), batch_size=2),
    "subset of a tensor": lambda: given(dataset=torchs.Subset(PAIR, torch.arange(5)), batch_size=2),
    "a tensor": lambda: given(dataset=X, batch_size=4, shuffle=True),
    "subset of a tensor's rows": lambda: given(dataset=torchs.Subset(X, range(3, 9)), batch_size=4),
    "other types": lambda: given(
        dataset=torchs.TensorDataset(X.half(), Y > 3, X.to(torch.complex64), Y.to(torch.uint16)),
        batch_size=4,
    ),
    "images": lambda: given(
        dataset=torch.arange(240).view(5, 3, 4, 4).to(memory_format=torch.channels_last),
        batch_size=2,
    ),
    "strided": lambda: given(dataset=torch.arange(96).view(4, 8, 3).transpose(0, 1), batch_size=3),
    "of no width": lambda: given(dataset=torch.zeros(6, 0), batch_size=4),
    "no rows": lambda: given(dataset=torch.zeros(0, 3)),
    "a shorter source": lambda: given(
        dataset=PAIR, batch_size=4, sampler=torchs.SequentialSampler(range(7))
    ),
    "pinned": lambda: given(dataset=PAIR, batch_size=4, pin_memory=torch.cuda.is_available()),
}
"""Arguments with which all rows of a batch are gathered at once, many batches ahead."""

FETCHED: dict[str, Callable[[], Any]] = {
    "replacement": lambda: given(dataset=PAIR, batch_size=4, sampler=drawn(replacement=True)),
    "replacement, own generator": lambda: given(
        dataset=PAIR, batch_size=4, sampler=drawn(replacement=True, own=True, number=70)
    ),
    "more rows than there are": lambda: given(dataset=PAIR, batch_size=4, sampler=drawn(number=60)),
    "fewer rows than there are": lambda: given(dataset=PAIR, batch_size=4, sampler=drawn(number=6)),
    "weighted": lambda: given(dataset=PAIR, batch_size=4, sampler=weighted()),
    "rows by a list": lambda: given(dataset=PAIR, batch_size=4, sampler=[4, 4, 8, 1, 0]),
    "rows of a subset by a list": lambda: given(dataset=PART, batch_size=2, sampler=[9, 4, 0]),
    "rows from the end": lambda: given(dataset=PAIR, batch_size=2, sampler=[-1, 3, -23]),
    "random rows of a part": lambda: given(
        dataset=PAIR, batch_size=4, sampler=torchs.SubsetRandomSampler(range(9))
    ),
    "batches by a list": lambda: given(dataset=PAIR, batch_sampler=[[1, 2], [5], [7, 0, 3]]),
    "batches of tensors": lambda: given(dataset=PAIR, batch_sampler=Y.split(4)),
}
"""Arguments with which a sampler is asked batch by batch."""

TORCHS: dict[str, Callable[[], Any]] = {
    "no batches": lambda: given(dataset=PAIR, batch_size=None, shuffle=True),
    "no batches, own batches": lambda: given(
        dataset=PAIR, batch_size=None, sampler=torchs.BatchSampler(drawn(), 4, False)
    ),
    "own collating": lambda: given(dataset=PAIR, batch_size=4, collate_fn=pairs),
    "own dataset": lambda: given(dataset=Rows(), batch_size=4, shuffle=True),
    "own kind of tensor dataset": lambda: given(dataset=Doubled(X, Y), batch_size=4),
    "subset of own dataset": lambda: given(dataset=torchs.Subset(Rows(), range(4)), batch_size=3),
    "a list": lambda: given(dataset=list(zip(X, Y, strict=True)), batch_size=4, shuffle=True),
    "endless": lambda: given(dataset=Endless(), batch_size=4),
    "subset from the end": lambda: given(dataset=torchs.Subset(PAIR, [-1, 2]), batch_size=2),
    "an empty subset": lambda: given(dataset=torchs.Subset(PAIR, [])),
    "of one graph": lambda: given(dataset=torch.ones(5, requires_grad=True), batch_size=2),
}
"""Arguments that torch's own loader serves."""

ALL = {**GATHERED, **FETCHED, **TORCHS}


def states(made: torchs.DataLoader) -> list[Tensor]:
    owners = (made, made.sampler, made.batch_sampler)
    own = [g for o in owners if (g := getattr(o, "generator", None)) is not None]
    return [torch.get_rng_state(), *(generator.get_state() for generator in own)]


def trace(made: torchs.DataLoader, epochs: int = 2) -> Iterator[Any]:
    """Yield batches, and the random states around each."""
    torch.manual_seed(8)
    for _ in range(epochs):
        epoch = iter(made)
        yield "begun", states(made)
        for batch in epoch:
            yield batch, states(made)
        yield "ended", states(made)


def shown(thing: Any) -> Any:
    """Return what can be compared: types, values, shapes, strides."""
    if isinstance(thing, Tensor):
        about = thing.dtype, thing.shape, thing.stride(), thing.requires_grad, thing.is_pinned()
        return *about, thing.to(torch.complex128).tolist()
    if isinstance(thing, (list, tuple)):
        return type(thing), [shown(part) for part in thing]
    return thing


@pytest.mark.parametrize("name", ALL)
def test_batches_and_random_numbers_are_torchs(name, monkeypatch):
    monkeypatch.setattr(batches, "CHUNK_BATCHES", 2)
    ours, theirs = DataLoader(**ALL[name]()), torchs.DataLoader(**ALL[name]())
    assert [shown(step) for step in trace(ours)] == [shown(step) for step in trace(theirs)]
    if name != "endless":
        assert len(ours) == len(theirs)


@pytest.mark.parametrize("name", ALL)
def test_an_epoch_from_a_later_start_ends_as_the_whole_epoch_does(name):
    def ends(start: int, *, skip: bool) -> tuple[list[Any], list[list[Tensor]]]:
        made = DataLoader(**ALL[name]())
        torch.manual_seed(8)
        epoch = made.epoch_from(start) if skip else iter(made)
        if not skip:
            list(islice(epoch, start))
        seen = [states(made)]
        rest = list(epoch)
        return shown(rest), shown([*seen, states(made)])

    for start in range(sum(1 for _ in DataLoader(**ALL[name]())) + 1):
        assert ends(start, skip=True) == ends(start, skip=False)


@pytest.mark.parametrize("name", GATHERED)
def test_rows_are_gathered_many_batches_at_a_time(name, monkeypatch):
    asked = []
    monkeypatch.setattr(loader, "gathered", lambda *order: asked.append(order) or iter(()))
    assert list(DataLoader(**GATHERED[name]())) == []
    assert 1 <= len(asked) <= 2  # the full batches, and a short last one


@pytest.mark.parametrize("name", FETCHED)
def test_a_samplers_batch_is_fetched_at_once(name, monkeypatch):
    seen = []
    fetch = loader._Rows.__getitems__
    monkeypatch.setattr(
        loader._Rows, "__getitems__", lambda self, keys: seen.append(keys) or fetch(self, keys)
    )
    assert len(list(DataLoader(**FETCHED[name]()))) == len(seen) > 0


@pytest.mark.parametrize("name", TORCHS)
def test_the_rest_is_left_to_torch(name):
    made = DataLoader(**TORCHS[name]())
    assert type(iter(made)) is type(iter(torchs.DataLoader(**TORCHS[name]())))


@pytest.mark.parametrize("own", [False, True], ids=["global", "own generator"])
@pytest.mark.parametrize("persistent", [False, True], ids=["fresh", "persistent"])
def test_workers_change_no_number_and_are_not_started(own, persistent, monkeypatch):
    def made(kind: Any) -> Any:
        generator = torch.Generator().manual_seed(2) if own else None
        return kind(
            PAIR,
            4,
            True,
            num_workers=1,
            persistent_workers=persistent,
            generator=generator,
        )

    theirs = [shown(step) for step in trace(made(torchs.DataLoader)) if own or step[0] != "begun"]
    monkeypatch.setattr(torch.multiprocessing, "get_context", None)
    ours = [shown(step) for step in trace(made(DataLoader)) if own or step[0] != "begun"]
    assert [step for _, (step, _) in ours] == [step for _, (step, _) in theirs]
    assert ours[-1] == theirs[-1]


def test_the_arguments_are_torchs():
    assert inspect.signature(DataLoader) == inspect.signature(torchs.DataLoader)
    made = DataLoader(PAIR, 4, True)
    assert isinstance(made, torchs.DataLoader)
    assert made.dataset is PAIR
    assert made.batch_size == 4
    assert isinstance(made.sampler, torchs.RandomSampler)
    assert DataLoader[int] is not None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"batch_size": 0}, ValueError),
        ({"shuffle": True, "sampler": [1]}, ValueError),
        ({"timeout": 5}, AssertionError),  # refused when iterated, where no worker is waited for
        ({"sampler": [ROWS]}, IndexError),
        ({"sampler": ["a"]}, (IndexError, TypeError)),
        ({"batch_sampler": [[]]}, IndexError),
    ],
)
def test_what_torch_refuses_is_refused(arguments, error):
    for kind in (torchs.DataLoader, DataLoader):
        with pytest.raises(error):
            list(kind(PAIR, **arguments))


def test_pinning_without_an_accelerator_is_warned_of_as_torch_does():
    if torch.accelerator.is_available():
        pytest.skip("there is an accelerator")
    with pytest.warns(UserWarning, match="no accelerator is found"):
        assert len(list(DataLoader(PAIR, 4, pin_memory=True))) == 6


def test_changes_of_a_batch_leave_data_and_other_batches_alone():
    kept = X.clone()
    first, second = islice(DataLoader(X, 4), 2)
    first.zero_()
    assert torch.equal(X, kept)
    assert torch.equal(second, X[4:8])


def test_a_subset_may_choose_other_rows_between_epochs():
    part = torchs.Subset(Y, [1, 2, 3])
    made = DataLoader(part, 3)
    assert next(iter(made)).tolist() == [1, 2, 3]
    part.indices[0] = 9
    assert next(iter(made)).tolist() == [9, 2, 3]


def test_a_loader_can_be_pickled_after_an_epoch():
    made = DataLoader(PAIR, 4)
    list(made)
    again = pickle.loads(pickle.dumps(made))
    assert shown(list(again)) == shown(list(made))


@pytest.mark.parametrize("start", [-1, 1.0, True])
def test_a_wrong_start_is_refused(start):
    with pytest.raises(DataError, match="start is"):
        DataLoader(PAIR, 4).epoch_from(start)
