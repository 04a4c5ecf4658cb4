"""A run resumes with what it had: each difference is named, and may be meant."""

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from steepest import optim, schedules
from steepest.data import Batches, Stream
from steepest.data.blocks import BlockWriter, Field
from steepest.errors import CheckpointError
from steepest.train import Stopped, read_metrics, train
from steepest.train.files.checkpoints import Checkpoints
from steepest.train.resumed import resume

X = torch.randn(14, 3, generator=torch.Generator().manual_seed(1))
Y = X.sum(1, keepdim=True)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.4), nn.Linear(8, 1))


def step_lr(gamma: float = 0.5, module: Any = optim.lr_scheduler) -> Any:
    return lambda optimizer: module.StepLR(optimizer, 1, gamma=gamma)


def plateau(factor: float = 0.5) -> Any:
    return lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(
        o, factor=factor, patience=0, threshold=0.9
    )


def cosine(total: int = 12) -> Any:
    return lambda optimizer: schedules.cosine(total=total)


def loader(y: Tensor = Y, **how: Any) -> DataLoader:
    return DataLoader(TensorDataset(X, y), **({"batch_size": 4, "shuffle": True} | how))


def batches(*data: Tensor, **how: Any) -> Batches:
    return Batches(*(data or (X, Y)), **({"batch_size": 4} | how))


def stream(y: Tensor) -> Stream:
    columns = [Field(np.dtype("f4"), (3,)), Field(np.dtype("f4"), (1,))]
    writer = BlockWriter(Path(tempfile.gettempdir()), columns, 14)
    writer.add(X.numpy(), y.numpy())
    return Stream(writer.close(), batch_size=4)


# what the run had, what it resumes with, what is said
MEANT = {
    "lr": (
        {},
        {"optimizer": lambda p: optim.Adam(p, lr=0.01)},
        "lr of param group 0 was 0.05 and is now 0.01",
    ),
    "betas": (
        {},
        {"optimizer": lambda p: optim.Adam(p, lr=0.05, betas=(0.8, 0.9))},
        "betas of param group 0 was [0.9, 0.999] and is now [0.8, 0.9]",
    ),
    "weight decay": (
        {"optimizer": lambda p: torch.optim.Adam(p, lr=0.05)},
        {"optimizer": lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.1)},
        "weight_decay of param group 0 was 0 and is now 0.1",
    ),
    "the optimizer's clip_norm": (
        {},
        {"optimizer": lambda p: optim.Adam(p, lr=0.05, clip_norm=0.1)},
        "the optimizer's clip_norm was None and is now 0.1",
    ),
    "no clip_value": (
        {"optimizer": lambda p: optim.Adam(p, lr=0.05, clip_value=0.1)},
        {},
        "the optimizer's clip_value was 0.1 and is now None",
    ),
    "average_decay": (
        {"optimizer": lambda p: optim.Adam(p, lr=0.05, average="ema")},
        {"optimizer": lambda p: optim.Adam(p, lr=0.05, average="ema", average_decay=0.5)},
        "the optimizer's average_decay was 0.999 and is now 0.5",
    ),
    "clip_norm": ({}, {"clip_norm": 0.1}, "clip_norm was None and is now 0.1"),
    "accumulate": ({}, {"accumulate": 2}, "accumulate was 1 and is now 2"),
    "precision": ({}, {"precision": "float16"}, "precision was 'float32' and is now 'float16'"),
    "validate_steps": ({}, {"validate_steps": 3}, "validate_steps was None and is now 3"),
    "monitor": (
        {"metrics": {"m": nn.L1Loss()}},
        {"metrics": {"m": nn.L1Loss()}, "monitor": "m", "mode": "min"},
        "monitor was 'validation_loss' and is now 'validation_m'",
    ),
    "mode": ({}, {"mode": "max"}, "mode was 'min' and is now 'max'"),
    "schedule": (
        {"schedule": cosine()},
        {"schedule": cosine(24)},
        "schedule was 'cosine(start=1.0, total=12, warmup=0, end=0.0)' and is now "
        "'cosine(start=1.0, total=24, warmup=0, end=0.0)'",
    ),
    "the optimizer's schedule": (
        {"optimizer": lambda p: optim.Adam(p, lr=schedules.cosine(0.05, total=12))},
        {"optimizer": lambda p: optim.Adam(p, lr=schedules.cosine(0.01, total=12))},
        "schedule of lr of param group 0 was 'cosine(start=0.05, total=12, warmup=0, end=0.0)' and "
        "is now 'cosine(start=0.01, total=12, warmup=0, end=0.0)'",
    ),
    "gamma": (
        {"schedule": step_lr(0.5)},
        {"schedule": step_lr(0.1)},
        "the schedule's gamma was 0.5 and is now 0.1",
    ),
    "factor": (
        {"schedule": plateau(0.5)},
        {"schedule": plateau(0.1)},
        "the schedule's factor was 0.5 and is now 0.1",
    ),
    "seed": ({}, {"seed": 1}, "seed was 0 and is now 1"),
}
OTHER = {
    "batch size": (
        {},
        {"batches": batches(batch_size=5)},
        "number of batches was 4 and is now 3; data was '(14, 3), (14, 1), batch_size 4, ",
    ),
    "other values": (
        {},
        {"batches": batches(X, Y + 1)},
        "data was '(14, 3), (14, 1), batch_size 4, shuffle True, seed 0, drop_last False, checksum",
    ),
    "a list of other values": (
        {"batches": [(X, Y)] * 3},
        {"batches": [(X, Y + 1)] * 3},
        "data was '(14, 3), (14, 1), (14, 3), (14, 1), checksum",
    ),
    "a stream of other values": (
        {"batches": stream(Y)},
        {"batches": stream(Y + 1)},
        "data was '(14, 3), (14, 1), batch_size 4, shuffle True, seed 0, drop_last False, memory",
    ),
    "another order": ({}, {"batches": batches(seed=1)}, "shuffle True, seed 1, drop_last False"),
    "not shuffled": ({}, {"batches": batches(shuffle=False)}, "shuffle False, seed 0"),
    "a loader of other values": (
        {"batches": loader()},
        {"batches": loader(Y + 1)},
        "data was '(14, 3), (14, 1), batch_size 4, drop_last False, checksum",
    ),
    "a loader of other batches": (
        {"batches": loader()},
        {"batches": loader(batch_size=5, drop_last=True)},
        "number of batches was 4 and is now 2; data was '(14, 3), (14, 1), batch_size 4, ",
    ),
    "another optimizer": (
        {},
        {"optimizer": lambda p: torch.optim.SGD(p, lr=0.05)},
        "optimizer was 'Adam' and is now 'SGD'",
    ),
    "another kind of schedule": (
        {"schedule": step_lr()},
        {},
        "kind of schedule was 'StepLR' and is now 'NoneType'",
    ),
    "another order of parameters": (
        {},
        {"optimizer": lambda p: optim.Adam(list(p)[::-1], lr=0.05)},
        "over the same parameters in the same order: number 0 was 0.weight (8, 3) and is now "
        "2.bias (1,)",
    ),
    "fewer parameters": (
        {},
        {"optimizer": lambda p: optim.Adam(list(p)[:2], lr=0.05)},
        "number 2 was 2.weight (1, 8) and is now absent",
    ),
    "other groups": (
        {},
        {"optimizer": lambda p: torch.optim.Adam([{"params": [q]} for q in p], lr=0.05)},
        "lr of param group 1 was None and is now 0.05",
    ),
    "another shape": (
        {"optimizer": lambda p: torch.optim.Adam(p, lr=0.05)},
        {
            "optimizer": lambda p: torch.optim.Adam(p, lr=0.05),
            "model": lambda: nn.Sequential(nn.Linear(3, 9), nn.Dropout(0.4), nn.Linear(9, 1)),
        },
        "0.weight was float32 (8, 3) and is now float32 (9, 3)",
    ),
}


def parts(run: Any) -> Any:
    """Copy what is alive in a run."""
    return json.loads(
        json.dumps(
            {
                "model": {k: v.tolist() for k, v in run.model.state_dict().items()},
                "groups": run.optimizer.state_dict()["param_groups"],
                "state": len(run.optimizer.state),
                "schedule": str(vars(run.schedule)) if hasattr(run.schedule, "step") else "",
                "random": torch.get_rng_state().tolist(),
            }
        )
    )


@pytest.mark.parametrize(
    ("had", "has", "message"), [*MEANT.values(), *OTHER.values()], ids=[*MEANT, *OTHER]
)
def test_what_differs_is_named_before_anything_changes(
    make: Any, same: Any, tmp_path: Path, had: Any, has: Any, message: str
):
    one = {"model": mlp}
    with pytest.raises(Stopped):
        train(make(folder=tmp_path, stop=6, **(one | had)))
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    run = make(folder=tmp_path, resume=True, **(one | has))
    torch.manual_seed(0)  # as the run does
    before = parts(run)
    with pytest.raises(CheckpointError) as caught:
        train(run)
    assert message in str(caught.value)
    assert str(caught.value).endswith(("as it was built", "begin a new run", "or override"))
    same(before, parts(run) | {"random": before["random"]})
    files.pop(tmp_path / ".lock")
    assert files == {path: path.read_bytes() for path in files}


@pytest.mark.parametrize(("had", "has", "message"), OTHER.values(), ids=OTHER)
def test_no_override_makes_it_another_run(
    make: Any, tmp_path: Path, had: Any, has: Any, message: str
):
    one = {"model": mlp}
    with pytest.raises(Stopped):
        train(make(folder=tmp_path, stop=6, **(one | had)))
    with pytest.raises(CheckpointError, match=r"resumes with|optimizer state does not fit"):
        train(make(folder=tmp_path, resume=True, override=True, **(one | has)))


# ---- override ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("had", "has", "message"), MEANT.values(), ids=MEANT)
def test_what_is_meant_is_taken_and_noted(
    make: Any, tmp_path: Path, capfd: Any, had: Any, has: Any, message: str
):
    one = {"model": mlp}
    with pytest.raises(Stopped):
        train(make(folder=tmp_path, stop=6, **(one | had)))
    stop = {"stop": 4 if has.get("accumulate") else 2}
    with pytest.raises(Stopped):
        train(
            make(folder=tmp_path, resume=True, override=True, progress=True, **stop, **(one | has))
        )
    assert f"note: {message}\n" in capfd.readouterr().err
    report = train(make(folder=tmp_path, resume=True, **(one | has)))  # it is the run's own now
    assert math.isfinite(report.final["loss"])
    rows = read_metrics(tmp_path / "metrics.jsonl")
    noted = [row for row in rows if row["kind"] == "override"]
    assert [(row["epoch"], row["step"], row["samples"]) for row in noted] == [(2, 6, 22)]
    assert message in noted[0]["changed"]
    assert (tmp_path / "metrics.csv").read_text().count("\noverride,2,6,22,") == 1


LRS = {
    "no schedule": (lambda o: None, [0.05, 0.01, 0.01]),
    "cosine": (
        lambda o: schedules.exponential(gamma=0.5),
        [0.05 * 0.5**3, 0.01 * 0.5**7, 0.01 * 0.5**11],
    ),
    "StepLR": (step_lr(), [0.05, 0.005, 0.0025]),
    "torch StepLR": (step_lr(module=torch.optim.lr_scheduler), [0.05, 0.005, 0.0025]),
    "LambdaLR": (
        lambda o: optim.lr_scheduler.LambdaLR(o, halved),
        [0.05, 0.005, 0.0025],
    ),
    "torch LambdaLR": (
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, halved),
        [0.05, 0.005, 0.0025],
    ),
    "plateau": (
        lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(
            o, patience=0, threshold=1.0, factor=0.5
        ),
        [0.05, 0.005, 0.0025],
    ),
}


def halved(epoch: int) -> float:
    return 0.5**epoch


@pytest.mark.parametrize("as_tensor", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize("module", [optim, torch.optim], ids=["steepest", "torch"])
@pytest.mark.parametrize(("schedule", "lrs"), LRS.values(), ids=LRS)
def test_another_lr_is_scheduled_as_if_it_had_been_the_first(
    make: Any, tmp_path: Path, schedule: Any, lrs: list[float], module: Any, as_tensor: bool
):
    def sgd(lr: float) -> Any:
        return lambda p: module.SGD(p, lr=torch.tensor(lr) if as_tensor else lr)

    how = {"model": mlp, "schedule": schedule}
    with pytest.raises(Stopped):
        train(make(folder=tmp_path, stop=6, optimizer=sgd(0.05), **how))
    again = make(folder=tmp_path, resume=True, override=True, optimizer=sgd(0.01), **how)
    report = train(again)
    assert [row["lr"] for row in report.history] == pytest.approx(lrs, rel=1e-5)


@pytest.mark.parametrize(
    ("module", "lr"), [(optim.lr_scheduler, 0.0005), (torch.optim.lr_scheduler, 0.0025)]
)
def test_another_gamma_is_taken(make: Any, tmp_path: Path, module: Any, lr: float):
    """torch's scheduler multiplies the lr that it finds, ours computes it from the epoch."""
    with pytest.raises(Stopped):
        train(make(folder=tmp_path, stop=6, schedule=step_lr(0.5, module)))
    how = {"schedule": step_lr(0.1, module), "resume": True, "override": True}
    report = train(make(folder=tmp_path, **how))
    assert [row["lr"] for row in report.history] == pytest.approx([0.05, 0.025, lr])


def test_the_options_that_are_overridden_are_those_of_a_run_that_changes_them_itself(
    make: Any, same: Any, tmp_path: Path
):
    """Two param groups, of which one has another lr, and momentum kept."""

    def groups(lr: float) -> Any:
        return lambda p: optim.SGD(
            [{"params": (q := list(p))[:2]}, {"params": q[2:], "lr": lr}], lr=0.05, momentum=0.9
        )

    with pytest.raises(Stopped):
        train(make(folder=tmp_path / "a", stop=6, optimizer=groups(0.1), model=mlp))
    how = {"resume": True, "override": True, "optimizer": groups(0.2), "model": mlp}
    again = make(folder=tmp_path / "a", **how)
    train(again)
    calls = 0

    def changing(step: int) -> float:
        nonlocal calls
        calls += 1
        if step == 6:
            run.optimizer.param_groups[1]["initial_lr"] = 0.2
        return 1.0

    run = make(model=mlp, optimizer=groups(0.1), schedule=lambda _: changing)
    train(run)
    same(run.model.state_dict(), again.model.state_dict())


def test_precision_may_be_changed_both_ways(make: Any, tmp_path: Path):
    for stop, precision in enumerate(("float32", "float16", "float32"), 3):
        how = {"resume": stop > 3, "override": True, "precision": precision}
        with pytest.raises(Stopped):
            train(make(folder=tmp_path, stop=stop if stop == 3 else 1, **how))
        scaler = Checkpoints(tmp_path / "checkpoints").newest().state["scaler"]
        assert (scaler is None) == (precision == "float32")


def test_another_machine_is_noted(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
):
    now = resume.versions()
    monkeypatch.setattr(resume, "versions", lambda: now | {"torch": "2.0", "cpu": "SSE"})
    with pytest.raises(Stopped):
        train(make(folder=tmp_path, stop=6))
    monkeypatch.setattr(resume, "versions", lambda: now)
    train(make(folder=tmp_path, resume=True, progress=True))
    said = capfd.readouterr().err
    changed = f"torch 2.0 to {now['torch']}, cpu SSE to {now['cpu']}"
    assert f"note: the machine changed ({changed}): the last bits of numbers may differ\n" in said
    assert all(row["kind"] != "override" for row in read_metrics(tmp_path / "metrics.jsonl"))


def test_a_run_goes_on_in_the_same_process(make: Any, same: Any, tmp_path: Path):
    """Its own parts, used already, are what it had."""
    from dataclasses import replace

    for schedule in (cosine(24), step_lr(), step_lr(module=torch.optim.lr_scheduler), plateau()):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        run = make(folder=folder, schedule=schedule)
        train(run)
        longer = replace(run, epochs=5, resume=True)
        train(longer)
        whole = make(epochs=5, schedule=schedule)
        train(whole)
        same(whole.model.state_dict(), longer.model.state_dict())
