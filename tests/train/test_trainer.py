"""The loop does what a loop written by hand does, with any batches and any optimizer."""

import json
import math
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from steepest import optim, schedules
from steepest.data import Batches
from steepest.errors import RecipeError, SteepestError
from steepest.train import Report, Run, RunError, choose_device, read_metrics, train, validate

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
Y = X.sum(1, keepdim=True)


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def run_of(model: nn.Module | None = None, **changed: Any) -> Run:
    model = linear() if model is None else model
    options: dict[str, Any] = {
        "model": model,
        "optimizer": optim.SGD(model.parameters(), lr=0.1),
        "loss_fn": nn.MSELoss(),
        "batches": Batches(X, Y, batch_size=8),
        "epochs": 3,
        "progress": False,
    }
    return Run(**(options | changed))


def by_hand(optimizer: torch.optim.Optimizer, model: nn.Module, batches: Any, **how: Any) -> None:
    clip_norm, schedule = how.get("clip_norm"), how.get("schedule")
    lr, step = optimizer.param_groups[0]["lr"], 0
    for epoch in range(3):
        for x, y in batches.epoch(epoch) if isinstance(batches, Batches) else batches:
            loss = nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            if clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            if schedule:
                optimizer.param_groups[0]["lr"] = lr * schedule(step)
            optimizer.step()
            step += 1


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.1),
        lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: optim.Adam(p, lr=0.1),
    ],
    ids=["torch SGD", "torch Adam", "SGD", "Adam"],
)
@pytest.mark.parametrize(
    "how",
    [{}, {"clip_norm": 0.5}, {"schedule": schedules.cosine(total=9)}],
    ids=["plain", "clipped", "scheduled"],
)
def test_equals_the_loop_by_hand(make: Any, how: dict[str, Any]):
    ours, theirs = linear(), linear()
    train(run_of(ours, optimizer=make(ours.parameters()), **how))
    by_hand(make(theirs.parameters()), theirs, Batches(X, Y, batch_size=8), **how)
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(X, Y, strict=True)


SOURCES = {
    "DataLoader": lambda: DataLoader(TensorDataset(X, Y), batch_size=8),
    "a stream": lambda: DataLoader(Stream(), batch_size=8),
    "list": lambda: list(zip(X.split(8), Y.split(8), strict=True)),
    "Batches": lambda: Batches(X, Y, batch_size=8, shuffle=False),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_takes_any_batches(source: Any):
    ours, theirs = linear(), linear()
    report = train(run_of(ours, batches=source()))
    by_hand(torch.optim.SGD(theirs.parameters(), lr=0.1), theirs, SOURCES["list"]())
    torch.testing.assert_close(ours.weight, theirs.weight)
    assert report.steps == 9


def test_the_same_run_gives_the_same_numbers():
    losses = [train(run_of(batches=SOURCES["DataLoader"]())).final["loss"] for _ in range(2)]
    assert losses[0] == losses[1]


def test_an_iterator_serves_one_epoch():
    batches = zip(X.split(8), Y.split(8), strict=True)
    assert train(run_of(batches=batches, epochs=1)).steps == 3


class Exhausted:
    """Read once, though it has no __next__."""

    def __init__(self) -> None:
        self.rows = zip(X.split(8), Y.split(8), strict=True)

    def __iter__(self) -> Iterator[Any]:
        return self.rows


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (zip(X.split(8), Y.split(8), strict=True), "got an iterator, which can be read only once"),
        (Exhausted(), "got none in epoch 2"),
        ([], "has no batch"),
        ([X], "got a tensor of shape .20, 3."),
        ([(X,)], "got a tuple of 1"),
        ([{"x": X}], "got a dict"),
    ],
    ids=["iterator", "dry", "empty", "tensor", "no target", "dict"],
)
def test_batches_that_cannot_serve_are_refused(batches: Any, message: str):
    with pytest.raises(RecipeError, match=message):
        train(run_of(batches=batches))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 0}, "epochs is a whole number above 0: got 0"),
        ({"epochs": 1.5}, "epochs is a whole number above 0: got 1.5"),
        ({"epochs": True}, "got True"),
        ({"log_steps": 0}, "log_steps"),
        ({"seed": 2**64}, r"seed is a whole number from -2\*\*63 to 2\*\*64 - 1: got 18446744"),
        ({"seed": 1.5}, "seed is a whole number"),
        ({"threads": 0}, "threads"),
        ({"clip_norm": -1.0}, "clip_norm is a number above 0: got -1.0"),
        ({"clip_norm": math.nan}, "clip_norm is a number above 0: got nan"),
        ({"checkpoint_seconds": -1}, "checkpoint_seconds is a number of at least 0: got -1"),
        ({"resume": True}, "give folder as well"),
        (
            {"metrics": {"a": nn.L1Loss()}},
            "got a and no validation; give validation or leave them out",
        ),
        ({"schedule": "cosine"}, "got str"),
        ({"optimizer": optim.SGD(nn.Linear(1, 1).parameters())}, "holds none of them"),
        ({"device": "nowhere"}, "got 'nowhere'"),
        ({"validation": iter([(X, Y)])}, "validation is read once per epoch"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any], message: str):
    with pytest.raises(RecipeError, match=message):
        train(run_of(**changed))


@pytest.mark.parametrize("module", [optim, torch.optim], ids=["steepest", "torch"])
def test_an_optimizer_that_needs_a_closure_is_refused(module: Any):
    model = linear()
    with pytest.raises(RecipeError, match="no closure, which LBFGS needs: take another"):
        run_of(model, optimizer=module.LBFGS(model.parameters()))


def test_options_that_are_misspelt_are_refused():
    with pytest.raises(TypeError, match="epoch"):
        run_of(epoch=3)


class Modes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = linear()
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((self.training, torch.is_grad_enabled()))
        return self.linear(x)


def test_validation_is_in_eval_mode_without_gradients():
    model = Modes().eval()
    train(run_of(model, validation=[(X, Y)], epochs=2))
    assert model.seen == ([(True, True)] * 3 + [(False, False)]) * 2
    assert model.training


def test_means_are_weighted_by_rows():
    model = linear()
    measured = validate(
        model, nn.MSELoss(), [(X[:15], Y[:15]), (X[15:], Y[15:])], {"l1": nn.L1Loss()}
    )
    assert measured["loss"] == pytest.approx(nn.functional.mse_loss(model(X), Y).item())
    assert measured["l1"] == pytest.approx(nn.functional.l1_loss(model(X), Y).item())
    frozen = run_of(model, optimizer=optim.SGD(model.parameters(), lr=0.0), epochs=1)
    assert train(frozen).final["loss"] == pytest.approx(measured["loss"])


def test_metrics_may_be_plain_numbers():
    def number(prediction: Tensor, target: Tensor) -> float:
        return float(len(target))

    report = train(run_of(validation=[(X, Y)], metrics={"rows": number}))
    assert report.final["validation_rows"] == 20


def test_several_inputs():
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = linear()

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.linear(a + b)

    report = train(run_of(Sum(), batches=[(X, X, Y), [X, X, Y]], epochs=1))
    assert report.steps == 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_update(value: float):
    model = linear()
    before = model.weight.clone()
    y = Y.clone()
    y[0] = value
    with pytest.raises(RunError, match=r"it was (nan|inf) at step 1 \(epoch 1, lr 0.1, 20 "):
        train(run_of(model, batches=[(X, y)]))
    assert torch.equal(model.weight, before)
    assert issubclass(RunError, SteepestError)


def test_a_validation_loss_that_is_not_finite_is_told(tmp_path: Path):
    report = train(run_of(validation=[(X, Y * math.inf)], folder=tmp_path))
    assert math.isinf(report.final["validation_loss"])
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["validation_loss"] is None
    assert report.best["epoch"] == 1


def test_schedulers_step_once_per_epoch():
    lrs = {}
    for name, scheduler in {
        "torch": torch.optim.lr_scheduler.StepLR,
        "steepest": optim.lr_scheduler.StepLR,
    }.items():
        model = linear()
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        run = run_of(model, optimizer=optimizer, schedule=scheduler(optimizer, 1, gamma=0.5))
        lrs[name] = [row["lr"] for row in train(run).history]
    assert lrs == {"torch": [0.1, 0.05, 0.025], "steepest": [0.1, 0.05, 0.025]}


@pytest.mark.parametrize("validation", [None, [(X, Y)]], ids=["train loss", "validation loss"])
def test_a_plateau_scheduler_is_given_the_loss(validation: Any):
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.9)
    seen = []
    step = plateau.step
    plateau.step = lambda metrics, epoch=None: (seen.append(metrics), step(metrics))[1]
    report = train(run_of(model, optimizer=optimizer, schedule=plateau, validation=validation))
    key = "loss" if validation is None else "validation_loss"
    assert seen == [row[key] for row in report.history]
    assert report.final["lr"] < 1e-3


def test_each_group_is_scheduled_from_its_own_lr():
    model = linear()
    groups = [
        {"params": [model.weight], "lr": 0.1},
        {"params": [model.bias], "lr": torch.tensor(0.2)},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    run = run_of(model, optimizer=optimizer, schedule=lambda step: 0.5**step, epochs=1)
    for _ in range(2):  # the second training starts from the first lr too
        train(run)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.025)
        assert optimizer.param_groups[1]["lr"].item() == pytest.approx(0.05)


def test_the_folder_holds_what_is_promised(tmp_path: Path):
    folder = tmp_path / "new" / "run"
    report = train(run_of(folder=folder, validation=[(X, Y)], log_steps=2, name="mine"))
    assert {p.name for p in folder.iterdir()} == {
        ".lock",
        "best.safetensors",
        "checkpoints",
        "evaluation.json",
        "loss.png",
        "metrics.csv",
        "metrics.jsonl",
        "model.safetensors",
        "run.json",
    }
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kinds = [(row["kind"], row["epoch"], row["step"]) for row in rows]
    assert kinds == [
        ("step", 1, 2),
        ("epoch", 1, 3),
        ("step", 2, 4),
        ("step", 2, 6),
        ("epoch", 2, 6),
        ("step", 3, 8),
        ("epoch", 3, 9),
    ]
    assert rows[-1].keys() == {
        "kind", "epoch", "step", "samples", "seconds", "loss", "validation_loss", "lr",
    }  # fmt: skip
    assert report.history == [row for row in rows if row["kind"] == "epoch"]
    assert (report.name, report.folder, report.steps) == ("mine", folder, 9)


def test_the_result_is_said_of_the_trained_model():
    report = train(run_of(result=lambda model: f"{model.weight.sum().item():.4f}"))
    assert float(report.result) != pytest.approx(linear().weight.sum().item())


def test_the_report_knows_final_and_best():
    values = iter([3.0, 1.0, 2.0])
    measure = lambda prediction, target: next(values)  # noqa: E731
    run = run_of(validation=[(X, Y)], metrics={"m": measure}, monitor="m", mode="min")
    report = train(run)
    assert (report.final["epoch"], report.best["epoch"]) == (3, 2)


@pytest.mark.parametrize("multiplier", [-0.5, math.nan, math.inf, None, torch.tensor(-1.0)])
def test_a_schedule_that_would_ascend_is_refused(multiplier: Any):
    model = linear()
    before = model.weight.clone()
    with pytest.raises(RecipeError, match="multiplier of lr, a finite number of at least 0: got"):
        train(run_of(model, schedule=lambda step: multiplier))
    assert torch.equal(model.weight, before)


def test_threads_are_given_back():
    before = torch.get_num_threads()
    seen = []
    run = run_of(threads=1, result=lambda model: str(seen.append(torch.get_num_threads())))
    train(run)
    assert seen == [1]
    assert torch.get_num_threads() == before


def test_another_thread_may_train():
    reports: list[Report] = []
    thread = threading.Thread(target=lambda: reports.append(train(run_of())))
    thread.start()
    thread.join()
    assert reports[0].steps == 9


def test_random_states_are_seeded_or_left():
    left = run_of(seed=None)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    train(left)
    assert torch.equal(torch.get_rng_state(), before)
    train(run_of(seed=7))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_device_is_chosen():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device(torch.device("meta")).type == "meta"
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    assert choose_device() == (accelerator or torch.device("cpu"))


DEVICES = sorted({"cpu", choose_device().type})


@pytest.mark.parametrize("device", DEVICES)
def test_trains_on_the_device(tmp_path: Path, device: str):
    model = linear()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    run = run_of(model, optimizer=optimizer, device=device, folder=tmp_path, validation=[(X, Y)])
    report = train(run)
    assert model.weight.device.type == device
    assert report.final["validation_loss"] < report.history[0]["validation_loss"]
    with pytest.raises(RunError, match=r"it was nan (at|by) step"):
        train(run_of(model, optimizer=optimizer, device=device, batches=[(X, Y * math.nan)]))


def test_importing_the_optimizers_imports_no_picture_or_table_library():
    import subprocess
    import sys

    code = (
        "import sys, steepest.train; "
        "print([m for m in ('matplotlib', 'polars', 'tyro', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_warning_from_torchs_schedulers():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = linear()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
        train(run_of(model, optimizer=optimizer, schedule=scheduler))


def test_a_refused_run_leaves_torchs_threads_as_they_were(tmp_path: Path):
    before = torch.get_num_threads()
    run = run_of(folder=tmp_path / "none", resume=True, threads=before + 1)
    with pytest.raises(SteepestError):
        train(run)
    assert torch.get_num_threads() == before
