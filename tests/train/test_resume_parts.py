"""Runs made of unusual parts are resumed bit for bit, too, and from nothing that is spoilt."""

import copy
import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from steepest import optim, schedules
from steepest.errors import CheckpointError
from steepest.train import Run, RunError, Stopped, record, train
from steepest.train.compiled import graph
from steepest.train.files.checkpoints import Checkpoints


@pytest.fixture(autouse=True)
def _no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no disk: nothing here cuts its power."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Several(nn.Module):
    """Layers of several dtypes, one frozen, one that no input reaches, a tensor of no numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 8)
        self.second = nn.Linear(8, 8, dtype=torch.float64)
        self.third = nn.Linear(8, 1, dtype=torch.bfloat16)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(2))
        self.empty = nn.Parameter(torch.zeros(0, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x).double()).bfloat16()).float()


class Tied(nn.Module):
    """Two layers with the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(torch.tanh(self.first(x))))


def scheduled(parameters: Any) -> optim.Adam:
    return optim.Adam(parameters, lr=schedules.cosine(total=12, warmup=3), clip_norm=1.0)


PARTS: dict[str, dict[str, Any]] = {
    "a schedule within": {"optimizer": scheduled},
    "a schedule within, float16": {
        "optimizer": scheduled, "precision": "float16", "accumulate": 2, "stops": [2, 4, 6]
    },
    "schedule-free": {"optimizer": lambda p: optim.ScheduleFreeAdamW(p, lr=0.05)},
    "an average": {"optimizer": lambda p: optim.Adam(p, lr=0.05, average="ema"), "patience": 2},
    "some parameters alone": {
        "optimizer": lambda p: optim.SGD([q for q in p if q.ndim == 2], lr=0.01, momentum=0.9)
    },
    "several dtypes": {"model": Several, "optimizer": lambda p: optim.Adam([*p], lr=0.01)},
    "tied weights": {"model": Tied, "optimizer": lambda p: optim.Adam(p, average="ema")},
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_stopped_here_and_there(make: Any, outcome: Any, same: Any, tmp_path: Path, part: str):
    how = {"stops": [1, 3, 4, 6, 9]} | PARTS[part]
    stops = how.pop("stops")
    whole = make(folder=tmp_path / "whole", **how)
    unbroken = outcome(whole, train(whole))
    for stop, done in zip(stops, [0, *stops], strict=False):
        calls = (stop - done) * how.get("accumulate", 1)
        with pytest.raises(Stopped, match=f"stopped after step {stop}$"):
            train(make(calls, folder=tmp_path / "a", resume=done > 0, **how))
    run = make(folder=tmp_path / "a", resume=True, **how)
    same(unbroken, outcome(run, train(run)))


def test_compiled(
    make: Any, outcome: Any, same: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def made(folder: str, stop: int | None = None, **changed: Any) -> Run:
        def multiplier(step: int) -> float:
            if step + 1 == stop:  # not in the loss, which is traced
                signal.raise_signal(signal.SIGINT)
            return 0.9**step

        run = make(folder=tmp_path / folder, compile="step", epochs=2, **changed)
        return replace(run, loss_fn=nn.MSELoss(), schedule=multiplier)

    monkeypatch.setattr(graph, "by_inductor", lambda module, example: module.forward)
    whole = made("whole")
    unbroken = outcome(whole, train(whole))
    with pytest.raises(Stopped, match=r"stopped after step 3$"):
        train(made("a", stop=3))
    run = made("a", resume=True)
    same(unbroken, outcome(run, train(run)))


class Spoiling(torch.optim.SGD):
    """An optimizer whose fifth update makes a parameter infinite."""

    updates = 0

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        self.updates += 1
        if self.updates == 5:
            self.param_groups[0]["params"][0].data.fill_(math.inf)


def test_a_checkpoint_of_parameters_that_are_not_finite_is_passed_over(
    make: Any, tmp_path: Path, capsys: Any
):
    how = {"optimizer": lambda p: Spoiling(p, lr=0.01), "folder": tmp_path / "run"}
    with pytest.raises(RunError, match=r"at step 6 .* the parameter 0.weight is not finite"):
        train(make(checkpoint_seconds=0, **how))
    spoilt = Checkpoints(tmp_path / "run" / "checkpoints").paths()[-1]
    assert spoilt.name == "step-0000000005.safetensors"
    run = make(resume=True, steps=8, progress=True, **how)
    assert train(run).steps == 8  # updates 5 to 8, the first four of this optimizer
    assert (
        f"{spoilt} holds NaN or infinity in state['model']['0.weight']" in capsys.readouterr().err
    )


def test_a_buffer_may_hold_infinity(make: Any, tmp_path: Path):
    def masked() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 1))
        model.register_buffer("mask", torch.tensor([0.0, -math.inf]))
        return model

    with pytest.raises(Stopped):
        train(make(2, model=masked, folder=tmp_path / "run"))
    train(make(model=masked, folder=tmp_path / "run", resume=True))


@pytest.mark.parametrize(("had", "has"), [(0, 1), (1, 0)])
def test_another_number_of_generators_is_refused(
    make: Any, data: Any, same: Any, tmp_path: Path, had: int, has: int
):
    def loader(generators: int) -> DataLoader[Any]:
        own = torch.Generator().manual_seed(5) if generators else None
        return DataLoader(TensorDataset(*data), batch_size=4, shuffle=True, generator=own)

    with pytest.raises(Stopped):
        train(make(2, batches=loader(had), folder=tmp_path / "run"))
    run = make(batches=loader(has), folder=tmp_path / "run", resume=True)
    before = copy.deepcopy(run.model.state_dict())
    with pytest.raises(CheckpointError, match=f"got {has} where it had {had};"):
        train(run)
    same(before, run.model.state_dict())


def test_ctrl_c_within_a_save_is_not_forgotten(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save = Checkpoints.save

    def saving(self: Checkpoints, step: int, state: Any) -> Path:
        if step == 2:
            signal.raise_signal(signal.SIGINT)
        return save(self, step, state)

    monkeypatch.setattr(Checkpoints, "save", saving)
    run = make(checkpoint_seconds=1e-9, validation=None, folder=tmp_path / "run")
    with pytest.raises(Stopped, match=r"stopped after step 2$"):
        train(run)


def test_a_run_that_fails_as_it_begins_lets_go_of_its_folder(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def failing(*_: Any) -> None:
        raise BrokenPipeError

    with monkeypatch.context() as patched:
        patched.setattr(record, "show_opening", failing)
        with pytest.raises(BrokenPipeError) as kept:  # and with it all that it has seen
            train(make(progress=True, folder=tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
    train(make(folder=tmp_path / "run", resume=True))
    del kept
