"""SC501 and SC502: each wrong loader is named at its line, its mended twin is silent."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from steepest.check import Finding, watch

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(40) % 7
ROWS = TensorDataset(X, CLASSES)


class Parts:
    """A model and its updates."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Linear(3, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)

    def update(self, x: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        self.model(x).square().mean().backward()
        self.optimizer.step()


class Noisy(Dataset[Any]):
    """Augmented rows in fixed order, with their labels."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> Any:
        return {"x": X[i] + torch.rand(3), "id": i}


class Drawn(Dataset[Any]):
    """Rows drawn at random, whatever the index."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> Any:
        return X[torch.randint(40, ())] + torch.rand(3)


class Alike(Dataset[Any]):
    """Rows that are all alike."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> Any:
        return torch.ones(3)


class Streamed(IterableDataset[Any]):
    """A stream, divided among workers or not."""

    def __init__(self, divided: bool) -> None:
        self.divided = divided

    def __iter__(self) -> Iterator[torch.Tensor]:
        worker = torch.utils.data.get_worker_info()
        first, of = (worker.id, worker.num_workers) if worker and self.divided else (0, 1)
        return iter(X[first::of])


def in_order(parts: Parts) -> None:
    loader = DataLoader(ROWS, batch_size=8)
    for _ in range(3):
        for x, _ in loader:  # SC501
            parts.update(x)


def labels_in_order(parts: Parts) -> None:
    loader = DataLoader(Noisy(), batch_size=8)
    for _ in range(3):
        for batch in loader:  # SC501
            parts.update(batch["x"])


def the_same_seed(parts: Parts) -> None:
    for _ in range(3):
        same = torch.Generator().manual_seed(0)
        for x, _ in DataLoader(ROWS, batch_size=8, shuffle=True, generator=same):  # SC501
            parts.update(x)


def a_list_in_order(parts: Parts) -> None:
    rows = list(X)
    for _ in range(3):
        for x in DataLoader(rows, batch_size=20):  # SC501  # pyright: ignore
            parts.update(x)


def in_order_and_evaluated(parts: Parts) -> None:
    for _ in range(2):
        for x, _ in DataLoader(ROWS, batch_size=8):  # SC501
            parts.update(x)
        for x, _ in DataLoader(ROWS, batch_size=8):
            parts.model(x)


def shuffled(parts: Parts) -> None:
    loader = DataLoader(ROWS, batch_size=8, shuffle=True)
    for _ in range(3):
        for x, _ in loader:
            parts.update(x)


def drawn(parts: Parts) -> None:
    rows = Drawn()
    for _ in range(3):
        for x in DataLoader(rows, batch_size=8):
            parts.update(x)


def alike(parts: Parts) -> None:
    rows = Alike()
    for _ in range(3):
        for x in DataLoader(rows, batch_size=8):
            parts.update(x)


def one_batch(parts: Parts) -> None:
    for _ in range(3):
        for x, _ in DataLoader(ROWS, batch_size=40):
            parts.update(x)


def evaluated(parts: Parts) -> None:
    for _ in range(3):
        for x, _ in DataLoader(ROWS, batch_size=8, shuffle=True):
            parts.update(x)
        for x, _ in DataLoader(TensorDataset(X, CLASSES), batch_size=8):
            parts.model(x)
        for x, _ in DataLoader(ROWS, batch_size=8):
            parts.model(x)


def evaluated_in_order_between(parts: Parts) -> None:
    held_out = DataLoader(TensorDataset(X, CLASSES), batch_size=8)
    for _ in range(3):
        for step, (x, _) in enumerate(DataLoader(ROWS, batch_size=8, shuffle=True)):
            parts.update(x)
            if step % 2:
                for other, _ in held_out:
                    parts.model(other)


def two_trainings_with_one_seed(parts: Parts) -> None:
    for _ in range(3):
        parts = Parts()
        for x, _ in DataLoader(ROWS, batch_size=8, shuffle=True):
            parts.update(x)


def stream_in_order(parts: Parts) -> None:
    rows = Streamed(divided=True)
    for _ in range(3):
        for x in DataLoader(rows, batch_size=8):
            parts.update(x)


def workers_alike(parts: Parts) -> None:
    for x in DataLoader(Streamed(divided=False), batch_size=8, num_workers=2):  # SC502
        parts.update(x)


def workers_divided(parts: Parts) -> None:
    for x in DataLoader(Streamed(divided=True), batch_size=4, num_workers=2):
        parts.update(x)


WRONG = [
    (in_order, "SC501"),
    (labels_in_order, "SC501"),
    (the_same_seed, "SC501"),
    (in_order_and_evaluated, "SC501"),
    (a_list_in_order, "SC501"),
    (workers_alike, "SC502"),
]
RIGHT = [
    shuffled, drawn, alike, one_batch, evaluated, evaluated_in_order_between,
    two_trainings_with_one_seed, stream_in_order, workers_divided,
]  # fmt: skip


def found(loop: Callable[[Parts], None]) -> list[Finding]:
    parts = Parts()
    with watch(parts.model, parts.optimizer) as watched:
        loop(parts)
    return [one for one in watched.findings() if one.code.startswith("SC5")]


@pytest.mark.parametrize(("loop", "code"), WRONG, ids=[loop.__name__ for loop, _ in WRONG])
def test_wrong_data_is_named_at_its_line(loop: Callable[[Parts], None], code: str):
    findings = found(loop)
    assert [finding.code for finding in findings] == [code]
    where = findings[0].where
    assert where is not None
    assert f"# {code}" in Path(where.file).read_text().splitlines()[where.line - 1]
    begins = loop.__code__.co_firstlineno
    assert begins < where.line <= begins + 4


@pytest.mark.parametrize("loop", RIGHT, ids=[loop.__name__ for loop in RIGHT])
def test_right_data_is_silent(loop: Callable[[Parts], None]):
    assert found(loop) == []


def test_batches_and_random_numbers_are_as_without():
    def drawn() -> list[torch.Tensor]:
        torch.manual_seed(0)
        return [x for _ in range(2) for x, _ in DataLoader(ROWS, batch_size=8, shuffle=True)]

    before = drawn()
    with watch():
        after = drawn()
        state = torch.get_rng_state()
    assert all(map(torch.equal, before, after))
    drawn()
    assert torch.equal(state, torch.get_rng_state())


def test_loaders_have_their_own_iterators_again():
    from torch.utils.data.dataloader import _BaseDataLoaderIter

    before = vars(_BaseDataLoaderIter)["__next__"]
    with watch():
        with watch():
            pass
        assert vars(_BaseDataLoaderIter)["__next__"] is not before
    assert vars(_BaseDataLoaderIter)["__next__"] is before
