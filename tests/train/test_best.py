"""The best weights are those of the best validation, and averages are what is measured and kept."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from steepest import optim
from steepest.data import Batches
from steepest.train import Stopped, read_metrics, train, validate
from steepest.train.files.checkpoint import load_weights
from steepest.train.measured.weights import averaged


def mixed(p: Any) -> optim.Optimizer:
    weights, biases = [q for q in p if q.ndim > 1], [q for q in p if q.ndim < 2]
    groups = [{"params": weights, "optimizer": optim.SGD, "lr": 0.05}, {"params": biases}]
    return optim.Mixed(groups, average="ema", average_decay=0.8)


AVERAGING = {
    "ema": lambda p: optim.AdamW(p, lr=0.05, average="ema", average_decay=0.8),
    "mean": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, average="mean"),
    "schedule-free SGD": lambda p: optim.ScheduleFreeSGD(p, lr=0.05),
    "schedule-free AdamW": lambda p: optim.ScheduleFreeAdamW(p, lr=0.05),
    "mixed": lambda p: mixed(list(p)),
}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1))


def weights(path: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(path)


@pytest.mark.parametrize("how", [{}, {"validate_steps": 3}], ids=["epochs", "updates"])
@pytest.mark.parametrize("optimizer", AVERAGING.values(), ids=AVERAGING)
def test_averages_are_measured_and_kept(
    make: Any, data: tuple[Tensor, Tensor], same: Any, tmp_path: Path, optimizer: Any, how: Any
):
    """By hand: the same training without validation, looked at from outside of it."""
    run = make(model=mlp, optimizer=optimizer, folder=tmp_path / "a", **how)
    told: list[dict[str, Tensor]] = []
    report = train(_with_result(run, told))
    found = [
        row for row in read_metrics(tmp_path / "a" / "metrics.jsonl") if "validation_loss" in row
    ]
    for row in found:
        twin = make(model=mlp, optimizer=optimizer, validation=None, steps=row["step"], epochs=None)
        train(twin)
        with twin.optimizer.averaged():
            expected = {name: v.clone() for name, v in twin.model.state_dict().items()}
            by_hand = validate(
                twin.model, nn.MSELoss(), Batches(*data, shuffle=False, batch_size=5)
            )
        raw = validate(twin.model, nn.MSELoss(), Batches(*data, shuffle=False, batch_size=5))
        assert row["validation_loss"] == by_hand["loss"] != raw["loss"]
        if row["step"] == report.best["step"]:
            same(expected, weights(tmp_path / "a" / "best.safetensors"))
            kept = json.loads((tmp_path / "a" / "evaluation.json").read_text())
            twin.model.load_state_dict(expected)
            predicted = twin.model.eval()(data[0]).flatten()
            torch.testing.assert_close(torch.tensor(kept["prediction"]), predicted)
    assert len(found) == (4 if how else 3)
    same(twin.optimizer.state_dict(), run.optimizer.state_dict())  # training goes on as without
    same(twin.model.state_dict().keys(), run.model.state_dict().keys())
    same(expected, weights(tmp_path / "a" / "model.safetensors"))
    same(expected, told[0])
    trained = make(model=mlp, optimizer=optimizer, validation=None)
    train(trained)
    same(trained.model.state_dict(), run.model.state_dict())


def _with_result(run: Any, told: list[dict[str, Tensor]]) -> Any:
    from dataclasses import replace

    def result(model: nn.Module) -> str:
        told.append({name: v.clone() for name, v in model.state_dict().items()})
        return ""

    return replace(run, result=result)


@pytest.mark.parametrize("optimizer", AVERAGING.values(), ids=AVERAGING)
def test_before_the_first_update_there_is_no_average(optimizer: Any):
    model = mlp()
    before = {name: v.clone() for name, v in model.state_dict().items()}
    made = optimizer(model.parameters())
    with averaged(made):
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", AVERAGING.values(), ids=AVERAGING)
def test_where_every_update_of_an_epoch_overflowed_there_is_none_either(
    make: Any, tmp_path: Path, optimizer: Any
):
    huge = lambda p, y: 1e4 * nn.functional.mse_loss(p, y)  # noqa: E731
    run = make(model=mlp, optimizer=optimizer, precision="float16", loss_fn=huge, epochs=1)
    before = {name: v.clone() for name, v in run.model.state_dict().items()}
    report = train(run)
    torch.testing.assert_close(run.model.state_dict(), before, rtol=0, atol=0)
    assert math.isfinite(report.final["validation_loss"])


# ---- the best ----------------------------------------------------------------------------------


def scripted(values: list[float], **how: Any) -> dict[str, Any]:
    """A metric that gives these values, one at each validation."""
    given = iter(values)
    validation = [(torch.zeros(2, 3), torch.zeros(2, 1))]
    metrics = {"m": lambda *_: next(given)}
    return {"validation": validation, "metrics": metrics, "monitor": "m", "mode": "min"} | how


@pytest.mark.parametrize(
    ("values", "how", "best"),
    [
        ([2.0, 1.0, 3.0], {}, {"epochs": 2}),
        ([2.0, 1.0, 3.0], {"mode": "max"}, {"epochs": 3}),
        ([1.0, 1.0, 1.0], {}, {"epochs": 1}),
        ([math.nan, 2.0, math.nan], {}, {"epochs": 2}),
        ([math.inf, 2.0, math.nan], {"mode": "max"}, {"epochs": 2}),
        ([3.0, 2.0, 1.0, 2.0, 2.0], {"validate_steps": 3}, {"steps": 9}),
        ([3.0, 1.0, 2.0, 2.0, 2.0], {"validate_steps": 5}, {"steps": 10}),
        ([3.0, 2.0, 1.0], {"validate_steps": 5}, {"steps": 12}),
    ],
    ids=str,
)
def test_the_best_weights_are_those_of_the_best_validation(
    make: Any, same: Any, tmp_path: Path, values: list[float], how: dict[str, Any], best: Any
):
    """A run that ends there has them."""
    run = make(folder=tmp_path / "a", **scripted(values, **how))
    report = train(run)
    train(make(folder=tmp_path / "b", validation=None, **best))
    same(
        weights(tmp_path / "b" / "model.safetensors"), weights(tmp_path / "a" / "best.safetensors")
    )
    told = json.loads((tmp_path / "a" / "run.json").read_text())
    assert told["best"]["value"] == report.best["validation_m"]
    assert (told["best"]["epoch"], told["best"]["step"]) == (
        report.best["epoch"],
        report.best["step"],
    )
    same(run.model.state_dict(), weights(tmp_path / "a" / "model.safetensors"))


def test_a_validation_that_is_never_finite_has_no_best_weights(
    make: Any, same: Any, tmp_path: Path
):
    run = make(folder=tmp_path, **scripted([math.nan, math.inf, -math.inf]))
    report = train(run)
    assert not (tmp_path / "best.safetensors").exists()
    told = json.loads((tmp_path / "run.json").read_text())
    assert (told["best"], told["status"]) == (None, "finished")
    assert report.best["epoch"] == 1
    kept = json.loads((tmp_path / "evaluation.json").read_text())  # of the last weights, then
    predicted = run.model.eval()(torch.zeros(2, 3)).flatten()
    torch.testing.assert_close(torch.tensor(kept["prediction"]), predicted)


def test_without_validation_the_best_epoch_has_the_lowest_loss(make: Any, tmp_path: Path):
    losses = iter([3.0] * 4 + [1.0] * 4 + [2.0] * 4)
    loss_fn = lambda p, y: p.sum() * 0 + next(losses)  # noqa: E731
    report = train(make(folder=tmp_path, validation=None, loss_fn=loss_fn))
    assert (report.best["epoch"], report.best["loss"]) == (2, 1.0)
    assert not (tmp_path / "best.safetensors").exists()
    assert not (tmp_path / "evaluation.json").exists()


def test_a_resumed_run_has_the_best_weights_of_before(make: Any, same: Any, tmp_path: Path):
    values = [1.0, 2.0, 3.0]
    with pytest.raises(Stopped):
        train(make(folder=tmp_path / "a", stop=7, **scripted(values)))
    best = weights(tmp_path / "a" / "best.safetensors")
    (tmp_path / "a" / "best.safetensors").unlink()  # the checkpoint has them, too
    report = train(make(folder=tmp_path / "a", resume=True, **scripted(values[1:])))
    assert report.best["epoch"] == 1
    same(best, weights(tmp_path / "a" / "best.safetensors"))


def test_tied_weights_are_kept_once(make: Any, tmp_path: Path):
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Linear(3, 1))
        model[2].weight = model[0].weight
        return model

    train(make(model=tied, folder=tmp_path / "run"))
    weights = load_weights(tmp_path / "run" / "best.safetensors")
    assert weights["2.weight"].data_ptr() == weights["0.weight"].data_ptr()
