"""A run over a loader of any kind is resumed bit for bit, or refused with the reason."""

import gc
import os
import random
import shutil
import signal
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)

from steepest import data as ours
from steepest import schedules
from steepest.errors import CheckpointError
from steepest.train import Run, Stopped, train

X = torch.randn(14, 3, generator=torch.Generator().manual_seed(1))
Y = X.sum(1, keepdim=True)
ROWS = TensorDataset(X, Y)


class Noisy(TensorDataset):
    """Rows with noise from every random state."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.rand(3) + 0.1 * random.random() + 0.1 * float(np.random.rand()), y


class Stream(IterableDataset[Any]):
    """Rows in an order that is drawn anew in each epoch; a worker reads its share."""

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in torch.randperm(len(X)).tolist()[number::count]:
            yield X[index] + 0.1 * torch.rand(3), Y[index]


def own() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def weighted(**options: Any) -> WeightedRandomSampler:
    return WeightedRandomSampler([1.0] * 7 + [3.0] * 7, 14, **options)


SOURCES: dict[str, Callable[[Any], Any]] = {
    "shuffled": lambda load: load(ROWS, shuffle=True),
    "a generator": lambda load: load(ROWS, shuffle=True, generator=own()),
    "dropping the last": lambda load: load(ROWS, shuffle=True, drop_last=True, generator=own()),
    "a subset": lambda load: load(Subset(ROWS, [*range(3, 13)]), shuffle=True),
    "noise": lambda load: load(Noisy(X, Y), shuffle=True, generator=own()),
    "weighted": lambda load: load(ROWS, sampler=weighted()),
    "weighted by its own": lambda load: load(ROWS, sampler=weighted(generator=own())),
    "with replacement": lambda load: load(
        ROWS, sampler=RandomSampler(ROWS, replacement=True, num_samples=40, generator=own())
    ),
    "a sampler of batches": lambda load: load(
        ROWS,
        batch_size=1,
        batch_sampler=BatchSampler(RandomSampler(ROWS, generator=own()), 4, False),
    ),
    "in order": lambda load: load(ROWS, sampler=SequentialSampler(ROWS)),
    "a stream": lambda load: load(Stream()),
}
LOADERS = {"torch": torch.utils.data.DataLoader, "steepest": ours.DataLoader}


@pytest.fixture(autouse=True)
def _no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no disk: nothing here cuts its power."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def stopped_after(run: Run) -> int:
    """Return the step after which a run is stopped; keep nothing of it, as loaders have workers."""
    try:
        train(run)
    except Stopped as stopped:
        return stopped.step
    raise AssertionError("it was not stopped")


def stopped_and_resumed(
    make: Any, outcome: Any, folder: Path, stops: list[int], source: Callable[[], Any], **how: Any
) -> Any:
    done = 0
    for stop in stops:
        run = make(stop - done, batches=source(), folder=folder, resume=done > 0, **how)
        assert stopped_after(run) == stop
        done = stop
    run = make(batches=source(), folder=folder, resume=True, **how)
    return outcome(run, train(run))


def whole(make: Any, outcome: Any, folder: Path, source: Callable[[], Any], **how: Any) -> Any:
    run = make(batches=source(), folder=folder, **how)
    return outcome(run, train(run))


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("loader", LOADERS)
def test_stopped_at_every_step(
    make: Any, outcome: Any, same: Any, tmp_path: Path, loader: str, kind: str
):
    def load(dataset: Any, batch_size: int = 4, **options: Any) -> Any:
        return LOADERS[loader](dataset, batch_size=batch_size, **options)

    def source() -> Any:
        return SOURCES[kind](load)

    how = {"schedule": lambda _: schedules.cosine(total=12, warmup=5), "epochs": 2}
    unbroken = whole(make, outcome, tmp_path / "whole", source, **how)
    every = [*range(1, unbroken["history"][-1]["step"] + 1)]
    for stops in (every, [2], every[len(every) // 2 - 1 :][:1]):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        same(unbroken, stopped_and_resumed(make, outcome, folder, stops, source, **how))


WORKERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "noise": (Noisy(X, Y), {"shuffle": True}),
    "noise and a generator": (Noisy(X, Y), {"shuffle": True, "generator": own}),
    "weighted": (Noisy(X, Y), {"sampler": weighted}),
    "a stream": (Stream(), {}),
    "living on": (ROWS, {"shuffle": True, "persistent_workers": True}),
    "living on, a generator": (
        ROWS, {"shuffle": True, "persistent_workers": True, "generator": own}
    ),
}  # fmt: skip


@pytest.mark.parametrize(("dataset", "options"), WORKERS.values(), ids=WORKERS)
@pytest.mark.parametrize("loader", LOADERS)
def test_with_workers(
    make: Any,
    outcome: Any,
    same: Any,
    tmp_path: Path,
    loader: str,
    dataset: Any,
    options: dict[str, Any],
):
    def source() -> Any:
        made = {name: value() if callable(value) else value for name, value in options.items()}
        return LOADERS[loader](dataset, batch_size=4, num_workers=2, **made)

    unbroken = whole(make, outcome, tmp_path / "whole", source)
    found = stopped_and_resumed(make, outcome, tmp_path / "stopped", [2, 4, 7], source)
    same(unbroken, found)


def test_a_run_lets_go_of_model_and_loader_at_once(make: Any, tmp_path: Path):
    """Without a search for cycles, during which a stopped run's workers would wait."""

    def trained(**how: Any) -> list[Any]:
        run = make(batches=ours.Batches(X, Y, batch_size=4), folder=tmp_path / "a", **how)
        if how:
            stopped_after(run)
        else:
            train(run)
        return [weakref.ref(run.model), weakref.ref(run.batches)]

    gc.disable()
    try:
        assert [known() for known in trained(stop=3)] == [None, None]
        shutil.rmtree(tmp_path / "a")
        assert [known() for known in trained()] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("where", ["in a short window", "in the validation"])
def test_stopped_where_an_epochs_end_is_known(
    make: Any, outcome: Any, same: Any, tmp_path: Path, loader: str, where: str
):
    """torch's sampler draws from its generator once more when it is asked beyond its end."""
    calls = 0

    def metric(prediction: Tensor, target: Tensor) -> float:
        nonlocal calls
        calls += 1
        if calls == 2 and stops:
            signal.raise_signal(signal.SIGINT)
        return 0.0

    def source() -> Any:
        rows = TensorDataset(X[:12], Y[:12])  # whose last batch does not tell that it is the last
        return LOADERS[loader](rows, batch_size=4, shuffle=True, generator=own())

    in_validation = where == "in the validation"
    stops = False
    how: dict[str, Any] = {"metrics": {"m": metric}} if in_validation else {"accumulate": 2}
    unbroken = whole(make, outcome, tmp_path / "whole", source, **how)
    stops, calls = in_validation, 0
    stop = None if in_validation else 3
    run = make(stop, batches=source(), folder=tmp_path / "a", **how)
    assert stopped_after(run) == (3 if in_validation else 2)
    run = make(batches=source(), folder=tmp_path / "a", resume=True, **how)
    same(unbroken, outcome(run, train(run)))


def test_random_numbers_that_workers_keep_to_themselves_are_refused(make: Any, tmp_path: Path):
    def noisy(**how: Any) -> Run:
        loader = torch.utils.data.DataLoader(
            Noisy(X, Y), batch_size=4, num_workers=1, persistent_workers=True
        )
        return make(batches=loader, folder=tmp_path / "a", **how)

    assert stopped_after(noisy(stop=2)) == 2
    assert stopped_after(noisy(stop=3, resume=True)) == 5  # its epoch is read from its beginning
    with pytest.raises(CheckpointError, match=r"persistent workers keep theirs .* Noisy may draw"):
        train(noisy(resume=True))
    assert train(noisy(resume=True, override=True)).steps == 12


def test_a_stopped_run_closes_its_batches_whoever_keeps_the_error(make: Any):
    closed = []

    class Source:
        def __iter__(self) -> Iterator[Any]:
            try:
                yield from zip(X.split(4), Y.split(4), strict=True)
            finally:
                closed.append(True)

    with pytest.raises(Stopped) as kept:
        train(make(2, batches=Source()))
    assert closed == [True]
    assert kept.value.step == 2
