"""A run ends where it is told, and goes on from there as if it had never ended."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.regression import MeanAbsoluteError, R2Score

from steepest import optim, schedules
from steepest.errors import CheckpointError, RecipeError
from steepest.train import Stopped, read_metrics, record, train
from steepest.train import clock as clock_module


class Clock:
    """Seconds that pass as a test says."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (record, clock_module):
        monkeypatch.setattr(module, "perf_counter", clock)
    return clock


def still(p: Any) -> torch.optim.Optimizer:
    """An optimizer that changes nothing, so that nothing gets better."""
    return optim.SGD(p, lr=0.0)


def plain() -> nn.Module:
    return nn.Linear(3, 1)


@pytest.mark.parametrize(
    ("limits", "ended", "steps"),
    [
        ({"epochs": 2}, "epochs", 8),
        ({"steps": 5}, "steps", 5),
        ({"steps": 8}, "steps", 8),
        ({"epochs": None, "steps": 9}, "steps", 9),
        ({"epochs": 2, "steps": 100}, "epochs", 8),
        ({"epochs": None, "seconds": 5.0}, "seconds", 5),
        ({"epochs": None, "seconds": 5.0, "steps": 3}, "steps", 3),
        ({"epochs": 9, "patience": 2, "model": plain, "optimizer": still}, "patience", 12),
        (
            {"epochs": 9, "patience": 2, "model": plain, "optimizer": still, "validation": None},
            "patience",
            12,
        ),
        (
            {"epochs": None, "patience": 2, "steps": 99, "validate_steps": 3}
            | {"model": plain, "optimizer": still},
            "patience",
            9,
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else str(value),
)
def test_where_a_run_ends(make: Any, clock: Clock, limits: dict[str, Any], ended: str, steps: int):
    def loss_fn(prediction: Tensor, target: Tensor) -> Tensor:
        clock.now += torch.is_grad_enabled()
        loss = nn.functional.mse_loss(prediction, target)
        return loss if limits.get("validation", 1) else loss * 0 + 1  # its batches differ

    report = train(make(**limits, loss_fn=loss_fn))
    assert (report.ended, report.steps, report.final["step"]) == (ended, steps, steps)
    assert ("validation_loss" in report.final) == ("validation" not in limits)


def test_a_time_too_short_for_anything_gives_one_update(make: Any):
    report = train(make(epochs=None, seconds=1e-9))
    assert (report.ended, report.steps) == ("seconds", 1)


def test_time_is_counted_through_all_parts(make: Any, clock: Clock, tmp_path: Path):
    def loss_fn(prediction: Tensor, target: Tensor) -> Tensor:
        clock.now += torch.is_grad_enabled()
        return nn.functional.mse_loss(prediction, target)

    def limited(**more: Any) -> Any:
        return make(epochs=None, loss_fn=loss_fn, folder=tmp_path / "a", **more)

    assert train(limited(seconds=5.0)).steps == 5
    clock.now += 1000
    report = train(limited(seconds=7.0, resume=True))
    assert (report.steps, report.seconds, report.ended) == (7, 7.0, "seconds")


def test_a_run_without_an_end_is_refused(make: Any):
    with pytest.raises(RecipeError, match="A run has an end: give epochs, steps or seconds"):
        make(epochs=None)


# ---- going on ----------------------------------------------------------------------------------

SCHEDULES = {
    "none": lambda optimizer: None,
    "cosine": lambda optimizer: schedules.cosine(total=12),
    "StepLR": lambda optimizer: optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
    "torch StepLR": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
    "plateau": lambda optimizer: optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, patience=0, threshold=0.9
    ),
}
ENDINGS = {
    "in an epoch": ({"steps": 5}, {"steps": 11}),
    "at an epoch's end": ({"steps": 8}, {"steps": 11}),
    "before a whole epoch": ({"steps": 1}, {"steps": 12}),
    "between validations": ({"steps": 5, "validate_steps": 3}, {"steps": 10}),
    "at a validation": ({"steps": 6, "validate_steps": 3}, {"steps": 11}),
    "at both": ({"steps": 8, "validate_steps": 4}, {"steps": 12}),
    "more epochs": ({"epochs": 1}, {"epochs": 3}),
    "more epochs, validated within": ({"epochs": 1, "validate_steps": 3}, {"epochs": 3}),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("first", "then"), ENDINGS.values(), ids=ENDINGS)
def test_a_run_that_ended_goes_on(
    make: Any, outcome: Any, same: Any, tmp_path: Path, first: Any, then: Any, schedule: str
):
    how = {"schedule": SCHEDULES[schedule]}
    train(make(folder=tmp_path / "a", **how, **first))
    longer = make(folder=tmp_path / "a", resume=True, **how, **(first | then))
    whole = make(folder=tmp_path / "b", **how, **(first | then))
    same(outcome(whole, train(whole)), outcome(longer, train(longer)))


@pytest.mark.parametrize(
    "how",
    [{}, {"validate_steps": 3}, {"validation": None}],
    ids=["epochs", "steps", "no validation"],
)
def test_more_patience(make: Any, same: Any, tmp_path: Path, how: dict[str, Any]):
    losses = iter([5.0, 4.0, 4.0, 4.0, 3.0, 3.0, 3.0, 3.0, 3.0])
    how = {"epochs": 9, "schedule": SCHEDULES["plateau"], **how}
    if how.get("validation", 1):
        how |= {"metrics": {"m": lambda *_: next(losses)}, "monitor": "m", "mode": "min"}
        how["validation"] = [(torch.zeros(2, 3), torch.zeros(2, 1))]
    else:
        how |= {"loss_fn": lambda p, y: p.mean() * 0 + 1.0}
    ended = train(make(folder=tmp_path / "a", patience=2, **how))
    assert ended.ended == "patience"
    longer = make(folder=tmp_path / "a", patience=4, resume=True, **how)
    again = train(longer)
    losses = iter([5.0, 4.0, 4.0, 4.0, 3.0, 3.0, 3.0, 3.0, 3.0])
    whole = make(folder=tmp_path / "b", patience=4, **how)
    report = train(whole)
    assert (again.ended, again.steps) == (report.ended, report.steps)
    assert again.steps > ended.steps
    same(whole.model.state_dict(), longer.model.state_dict())
    same(*([row | {"seconds": 0} for row in found.history] for found in (again, report)))


@pytest.mark.parametrize("schedule", ["StepLR", "plateau"])
@pytest.mark.parametrize("stop", range(1, 13))
def test_stopped_at_every_step_where_updates_are_validated(
    make: Any, outcome: Any, same: Any, tmp_path: Path, stop: int, schedule: str
):
    how = {"validate_steps": 3, "schedule": SCHEDULES[schedule]}
    with pytest.raises(Stopped, match=f"stopped after step {stop}"):
        train(make(folder=tmp_path / "a", stop=stop, **how))
    again = make(folder=tmp_path / "a", resume=True, **how)
    whole = make(folder=tmp_path / "b", **how)
    same(outcome(whole, train(whole)), outcome(again, train(again)))


@pytest.mark.parametrize("kind", ["ReduceLROnPlateau", "StepLR"])
@pytest.mark.parametrize("module", [optim.lr_scheduler, torch.optim.lr_scheduler])
def test_a_plateau_is_looked_for_at_every_validation_and_others_step_by_epochs(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, kind: str
):
    seen: list[tuple[Any, ...]] = []

    def schedule(optimizer: torch.optim.Optimizer) -> Any:
        made = getattr(module, kind)(optimizer, **({} if "On" in kind else {"step_size": 1}))
        step = type(made).step
        spied = lambda self, *given: (seen.append(given), step(self, *given))[1]  # noqa: E731
        monkeypatch.setattr(type(made), "step", spied)
        return made

    train(make(folder=tmp_path, validate_steps=5, schedule=schedule))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    measured = [(row["validation_loss"],) for row in rows if row["kind"] == "validation"]
    assert len(measured) == 3  # after 5 and 10 updates, and at the end, for the report alone
    assert seen == (measured[:2] if "On" in kind else [(), (), ()])


def test_validation_comes_by_updates_and_at_the_end(make: Any, tmp_path: Path):
    report = train(make(validate_steps=5, folder=tmp_path / "a", steps=11, log_steps=99))
    rows = read_metrics(tmp_path / "a" / "metrics.jsonl")
    assert [(row["kind"], row["epoch"], row["step"]) for row in rows] == [
        ("epoch", 1, 4),
        ("validation", 2, 5),
        ("epoch", 2, 8),
        ("validation", 3, 10),
        ("epoch", 3, 11),
    ]
    assert ["validation_loss" in row for row in rows] == [False, True, False, True, True]
    assert report.final["validation_loss"] == rows[-1]["validation_loss"]


def test_fewer_updates_than_are_done_are_refused(make: Any, tmp_path: Path):
    train(make(folder=tmp_path / "a", steps=7))
    with pytest.raises(CheckpointError, match="has 7 updates behind it: got steps=5; give at"):
        train(make(folder=tmp_path / "a", steps=5, resume=True))


# ---- what is watched ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "mode", "values", "best", "epochs"),
    [
        ("a", "max", [1.0, 2.0, 3.0, 2.0, 3.0, 9.0], 3, 5),
        ("a", "min", [3.0, 2.0, 3.0, 2.0, 0.0, 0.0], 2, 4),
        ("a", "max", [1.0, float("nan"), 2.0, float("nan"), float("inf"), 9.0], 3, 5),
        ("a", "min", [float("nan"), float("nan"), 1.0, 0.0, 0.0, 0.0], None, 2),
    ],
    ids=["max", "min", "not finite", "never finite"],
)
def test_patience_goes_by_a_metric(
    make: Any, metric: str, mode: str, values: list[float], best: int | None, epochs: int
):
    given = iter(values)
    validation = [(torch.zeros(2, 3), torch.zeros(2, 1))]
    how = {"metrics": {metric: lambda *_: next(given)}, "monitor": metric, "mode": mode}
    report = train(make(epochs=6, patience=2, validation=validation, **how))
    assert (report.ended, report.final["epoch"]) == ("patience", epochs)
    assert report.best["epoch"] == (best or 1)


@pytest.mark.parametrize(
    ("metric", "mode"), [(R2Score(), "max"), (MeanAbsoluteError(), "min")], ids=["r2", "mae"]
)
def test_torchmetrics_says_whether_more_is_better(make: Any, metric: Any, mode: str):
    run = make(metrics={"m": metric}, monitor="m", epochs=6)
    assert run.best_is == mode
    report = train(run)
    found = [row["validation_m"] for row in report.history]
    assert report.best["validation_m"] == {"max": max, "min": min}[mode](found)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"monitor": "b"}, "monitor is one of loss, a: got 'b'"),
        ({"monitor": "a"}, "monitor='a' is best at its minimum or its maximum: give mode"),
        ({"patience": 0}, "patience is a whole number above 0: got 0"),
        ({"mode": "best"}, "mode is one of None, 'min', 'max': got 'best'"),
        ({"steps": 0}, "steps is a whole number above 0: got 0"),
        ({"seconds": float("inf")}, "seconds is a number above 0: got inf"),
        ({"validation": None, "metrics": {}, "validate_steps": 3}, "validate_steps=3 and no"),
        ({"metrics": {"loss": nn.L1Loss()}}, "A metric has a name of its own: got loss"),
    ],
    ids=str,
)
def test_what_cannot_be_watched_is_refused(make: Any, changed: dict[str, Any], message: str):
    with pytest.raises(RecipeError, match=message):
        make(**({"metrics": {"a": nn.L1Loss()}} | changed))
