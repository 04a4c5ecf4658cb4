"""A run that is killed at any moment and resumed is the run that was never killed, bit for bit."""

import csv
import json
import mmap
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from steepest import data, optim, schedules
from steepest.train import Run, load_checkpoint, metrics_for, train
from steepest.train.files.checkpoints import Checkpoints
from steepest.train.record import Record
from steepest.train.shown import picture

X = torch.randn(28, 3, generator=torch.Generator().manual_seed(1))
Y = X.sum(1, keepdim=True)
EPOCHS = 3  # of 7 batches of 4 rows; the last update of an epoch has one batch, the others two

pytestmark = pytest.mark.skipif(
    torch.accelerator.is_available(),
    reason="a process that has an accelerator's threads cannot be forked to train",
)

TESTS, KILLS = 4, 50  # 200 kills in all

DOING = ("training", "starting", "validating", "saving", "finishing")
"""What a run is doing at a moment; a killed one tells by its number in memory that is shared."""


class Signs(torch.optim.Optimizer):
    """A user's own classic optimizer, with a state."""

    def __init__(self, params: Any, lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["sum"] = torch.zeros_like(p)
                state["sum"].mul_(0.9).add_(p.grad)
                p.sub_(state["sum"].sign(), alpha=group["lr"])


class Noisy(TensorDataset):
    """Rows with noise from every random state."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.rand(3) + 0.1 * random.random() + 0.1 * float(np.random.rand()), y


def batches() -> dict[str, Any]:
    """Batches in memory, an average, the optimizer's own clipping, a checkpoint at every update."""
    return {
        "optimizer": lambda p: optim.Adam(p, lr=0.05, average="ema", clip_norm=1.0),
        "schedule": lambda _: schedules.cosine(total=12, warmup=3),
        "batches": data.Batches(X, Y, batch_size=4),
        "checkpoint_seconds": 0,
    }


def loader() -> dict[str, Any]:
    """A loader with a generator of its own, a scheduler with memory, validation by updates."""
    own = torch.Generator().manual_seed(5)
    dataset = TensorDataset(X, Y)
    return {
        "optimizer": lambda p: torch.optim.AdamW(p, lr=0.05, amsgrad=True),
        "schedule": lambda o: optim.lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=0.9),
        "batches": data.DataLoader(dataset, batch_size=4, shuffle=True, generator=own),
        "validate_steps": 3,
        "clip_norm": 1.0,
        "checkpoint_seconds": 0.004,
    }


def noise() -> dict[str, Any]:
    """Rows with noise, an optimizer and a loader of torch, a checkpoint after every epoch."""
    return {
        "optimizer": Signs,
        "schedule": lambda o: optim.lr_scheduler.StepLR(o, 1, gamma=0.5),
        "batches": torch.utils.data.DataLoader(Noisy(X, Y), batch_size=4, shuffle=True),
        "clip_norm": 1.0,
        "checkpoint_epochs": 1,
    }


KINDS = [batches, loader, noise]


def make(folder: Path, kind: Callable[[], dict[str, Any]], *, resume: bool) -> Run:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.4), nn.Linear(8, 1))
    own = kind()
    optimizer = own["optimizer"](model.parameters())
    usual: dict[str, Any] = {
        "model": model,
        "loss_fn": nn.MSELoss(),
        "validation": data.Batches(X, Y, shuffle=False, batch_size=14),
        "metrics": metrics_for("regression"),
        "monitor": "r2",
        "patience": 6,
        "epochs": EPOCHS,
        "accumulate": 2,
        "log_steps": 2,
        "folder": folder,
        "resume": resume,
        "options": {"recipe": "mine", "arguments": []},
        "progress": False,
        "device": "cpu",
    }
    return Run(**usual | own | {"optimizer": optimizer, "schedule": own["schedule"](optimizer)})


# ---- a run in a process of its own ---------------------------------------------------------------


@pytest.fixture(scope="module")
def doing() -> Iterator[mmap.mmap]:
    with mmap.mmap(-1, 2) as shared:
        yield shared


@pytest.fixture(autouse=True)
def _told(monkeypatch: pytest.MonkeyPatch, doing: mmap.mmap) -> None:
    """Have a run say what it does, and leave out what takes longer than all the rest.

    A killed process loses nothing that it has written, so that no disk needs to be waited for.
    """

    def telling(owner: type, name: str, what: str) -> None:
        original = getattr(owner, name)

        def told(*args: Any, **kwargs: Any) -> Any:
            before, doing[0] = doing[0], DOING.index(what)
            try:
                return original(*args, **kwargs)
            finally:
                doing[0] = before if what == "saving" else DOING.index("training")

        monkeypatch.setattr(owner, name, told)

    telling(Record, "_measured", "validating")
    telling(Checkpoints, "save", "saving")
    telling(Record, "finish", "finishing")
    telling(Record, "__enter__", "starting")
    monkeypatch.setattr(os, "fsync", lambda descriptor: sys.audit("fsync", descriptor))
    monkeypatch.setattr(picture, "draw_losses", lambda *_: None)


def started(folder: Path, kind: Callable[[], dict[str, Any]], hook: Any = None) -> int:
    """Begin a run, or go on with it, in a process of its own; return its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        if hook is not None:
            sys.addaudithook(hook)
        run = make(folder, kind, resume=(folder / "options.json").exists())
        report = train(run)
        torch.save(
            {
                "model": run.model.state_dict(),
                "optimizer": run.optimizer.state_dict(),
                "history": untimed(report.history),
                "best": untimed(report.best),
                "random": [torch.get_rng_state(), random.random(), float(np.random.rand())],
            },
            folder / "outcome.pt",
        )
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def untimed(value: Any) -> Any:
    """Return a value without what a clock tells."""
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items() if k not in ("seconds", "started")}
    return [untimed(item) for item in value] if isinstance(value, list) else value


def left(folder: Path) -> dict[str, Any]:
    """Return all that a finished run left, without what a clock tells."""
    newest = Checkpoints(folder / "checkpoints").paths()[-1]
    assert not list(folder.rglob("*.tmp"))
    with (folder / "metrics.csv").open() as file:
        table = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {
        "files": sorted(os.listdir(folder)),
        "outcome": torch.load(folder / "outcome.pt"),
        "checkpoint": untimed(load_checkpoint(newest)),
        "rows": [untimed(row) for row in map(json.loads, lines)],
        "table": table,
        "run": untimed(json.loads((folder / "run.json").read_text())),
        "same bytes": [
            (folder / name).read_bytes()
            for name in ("best.safetensors", "model.safetensors", "evaluation.json", "options.json")
        ],
    }


def assert_same(a: Any, b: Any, where: str = "") -> None:
    assert type(a) is type(b), where
    if isinstance(a, Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for k, (one, other) in enumerate(zip(a, b, strict=True)):
            assert_same(one, other, f"{where}[{k}]")
    else:
        assert a == b, where


def unbroken(folder: Path, kind: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], float]:
    """Return what a run leaves that nobody kills, and how long it takes, in seconds."""
    train(make(folder / "here", kind, resume=False))  # all processes have its kernels and imports
    begin = time.perf_counter()
    assert os.waitpid(started(folder / "whole", kind), 0)[1] == 0
    return left(folder / "whole"), time.perf_counter() - begin


# ---- kills -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(TESTS))
def test_killed_at_random_moments(tmp_path: Path, number: int, doing: mmap.mmap):
    kind = KINDS[number % len(KINDS)]
    whole, seconds = unbroken(tmp_path, kind)
    draw = random.Random(number)
    kills: Counter[str] = Counter()
    runs = 0
    begin = time.perf_counter()
    while kills.total() < KILLS:
        runs += 1
        folder = tmp_path / f"run-{runs}"
        for _ in range(draw.randint(2, 8)):  # so often in a row, then it is let finish
            doing[0] = DOING.index("starting")
            child = started(folder, kind)
            time.sleep(draw.uniform(0, 0.9 * seconds))
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            if status == 0:  # it was quicker
                break
            assert status == signal.SIGKILL
            kills[DOING[doing[0]]] += 1
        else:
            assert os.waitpid(started(folder, kind), 0)[1] == 0
        assert_same(whole, left(folder))
    took = (time.perf_counter() - begin) / kills.total()
    print(f"{kind.__name__}: {dict(kills)} in {runs} runs of {seconds:.2f} s, {took:.2f} s a kill")


def small() -> dict[str, Any]:
    """Two epochs of two updates, with a checkpoint after each epoch."""
    return batches() | {
        "batches": data.Batches(X[:12], Y[:12], batch_size=4),
        "epochs": 2,
        "checkpoint_seconds": 60,
        "checkpoint_epochs": 1,
    }


def dying(folder: Path, doing: mmap.mmap, at: int) -> Callable[[str, tuple[Any, ...]], None]:
    """Return an audit hook that counts what a run asks of its files, and dies before one of them.

    Each is to open, sync, rename, remove or cut a file, or to make a folder.
    """
    files = {"open", "os.rename", "os.remove", "os.mkdir", "os.truncate"}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "fsync" or (event in files and str(arguments[0]).startswith(str(folder))):
            doing[1] += 1
            if doing[1] == at:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def test_killed_before_each_thing_that_it_does_to_a_file(tmp_path: Path, doing: mmap.mmap):
    whole, _ = unbroken(tmp_path, small)
    doing[1] = 0
    counted = tmp_path / "counted"
    assert os.waitpid(started(counted, small, dying(counted, doing, at=256)), 0)[1] == 0
    count = doing[1]
    assert 50 < count < 255
    for at in range(1, count + 1):
        folder = tmp_path / str(at)
        status = None
        for again in (at, count + 1 - at):  # killed late it is killed early as it goes on
            doing[1] = 0
            status = os.waitpid(started(folder, small, dying(folder, doing, again)), 0)[1]
            assert status == signal.SIGKILL or (status == 0 and again != at)
        if status:
            assert os.waitpid(started(folder, small), 0)[1] == 0
        assert_same(whole, left(folder), f"killed before {at} of {count}: ")
