"""Metrics go to TensorBoard and others too; one that fails does not end a training."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from steepest.errors import RecipeError
from steepest.train import Stopped, read_metrics, train
from steepest.train.shown import loggers
from steepest.train.shown.loggers import Begun, numbers_of


def events(folder: Path) -> dict[str, dict[int, float]]:
    """Read TensorBoard's files back: name -> step -> value, of all files together."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"), purge_orphaned_data=True)
    found.Reload()
    return {
        tag: {event.step: event.value for event in found.Scalars(tag)}
        for tag in found.Tags()["scalars"]
    }


def expected(folder: Path) -> dict[str, dict[int, float]]:
    told: dict[str, dict[int, float]] = {}
    for row in read_metrics(folder / "metrics.jsonl"):
        row = {name: math.nan if value is None else value for name, value in row.items()}
        for name, number in numbers_of(row):
            told.setdefault(name, {})[row["step"]] = pytest.approx(number, rel=1e-6)
    return told


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
def test_tensorboard_has_the_numbers_of_the_rows(make: Any, tmp_path: Path):
    how = {"metrics": {"l1": nn.L1Loss()}, "log_to": ("tensorboard",), "validate_steps": 5}
    train(make(folder=tmp_path, steps=11, **how))
    found = events(tmp_path)
    assert found == expected(tmp_path)
    assert set(found) >= {
        "step/loss",
        "step/gradient_norm",
        "step/ratios/0.weight",
        "epoch/lr",
        "epoch/validation_l1",
        "validation/validation_loss",
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
def test_a_resumed_run_takes_back_what_its_checkpoint_does_not_have(make: Any, tmp_path: Path):
    """It died in its third epoch, and its newest checkpoint is of the second."""

    class DiedError(Exception):
        pass

    calls = 0

    def loss_fn(prediction: Any, target: Any) -> Any:
        nonlocal calls
        calls += torch.is_grad_enabled()
        if calls == 6:
            raise DiedError
        return nn.functional.mse_loss(prediction, target)

    how = {"log_to": ("tensorboard",), "log_steps": 1}
    with pytest.raises(Stopped):
        train(make(folder=tmp_path, stop=5, **how))
    with pytest.raises(DiedError):
        train(make(folder=tmp_path, resume=True, loss_fn=loss_fn, **how))
    assert max(events(tmp_path)["step/loss"]) == 10
    train(make(folder=tmp_path, resume=True, epochs=2, **how))
    assert events(tmp_path) == expected(tmp_path)
    assert max(events(tmp_path)["step/loss"]) == 8


@pytest.mark.parametrize(
    ("row", "numbers"),
    [
        ({"loss": 1.5, "lr": 1, "step": 3, "seconds": 2.0}, {"step/loss": 1.5, "step/lr": 1}),
        ({"loss": math.nan, "ratios": {"a": 1.0, "b": math.inf}}, {"step/ratios/a": 1.0}),
        ({"loss": None, "changed": ["a was 1"], "name": "x"}, {}),
    ],
    ids=["numbers", "not finite", "others"],
)
def test_the_finite_numbers_of_a_row(row: dict[str, Any], numbers: dict[str, float]):
    assert dict(numbers_of({"kind": "step", "epoch": 1, **row})) == numbers


def test_a_folder_is_needed(make: Any):
    with pytest.raises(RecipeError, match="log_to=tensorboard needs a folder: give the run one"):
        make(log_to=("tensorboard",))


def test_another_place_is_refused(make: Any, tmp_path: Path):
    message = "log_to is one of 'tensorboard', 'mlflow', 'wandb': got 'comet'"
    with pytest.raises(RecipeError, match=message):
        make(log_to=("tensorboard", "comet"), folder=tmp_path)


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_package_that_is_not_there_is_named(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RecipeError, match=rf"log_to={name} needs a package .* steepest\[{name}\]"):
        train(make(folder=tmp_path, log_to=(name,)))
    train(make(folder=tmp_path, resume=True))  # nothing is lost or locked


class Kept:
    """A logger that keeps what it is told, and fails where it is told to."""

    every: list["Kept"] = []  # noqa: RUF012
    fails: str = ""

    def __init__(self, begun: Begun) -> None:
        if self.fails == "begin":
            raise ConnectionError("no server\nat all")
        self.begun, self.rows, self.status = begun, [], ""
        self.run_id: str | None = begun.run_id or f"id{len(self.every)}"
        self.every.append(self)

    def write(self, row: Any) -> None:
        if self.fails == "write" and len(self.rows) == 2:
            raise ConnectionError("the server is gone\nreally")
        self.rows.append(row)

    def close(self, status: str) -> None:
        self.status = status
        if self.fails == "close":
            raise ConnectionError("the server is gone")


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> type[Kept]:
    monkeypatch.setattr(Kept, "every", [])
    monkeypatch.setattr(Kept, "fails", "")
    monkeypatch.setitem(loggers.LOGGERS, "mlflow", Kept)
    return Kept


@pytest.mark.parametrize("fails", ["write", "close"])
def test_one_that_fails_is_told_of_and_left_out(
    make: Any, same: Any, tmp_path: Path, kept: type[Kept], capfd: Any, fails: str
):
    kept.fails = fails
    run = make(folder=tmp_path / "a", log_to=("mlflow",))
    train(run)
    said = "note: log_to=mlflow is left out from here on: the server is gone\n"
    assert capfd.readouterr().err == said
    whole = make()
    train(whole)
    same(whole.model.state_dict(), run.model.state_dict())
    assert len(read_metrics(tmp_path / "a" / "metrics.jsonl")) == 7


def test_one_that_cannot_begin_is_refused(make: Any, tmp_path: Path, kept: type[Kept]):
    kept.fails = "begin"
    with pytest.raises(RecipeError, match=r"log_to=mlflow cannot begin: no server$"):
        train(make(folder=tmp_path, log_to=("tensorboard", "mlflow")))


def test_it_is_told_of_the_run_and_its_end(make: Any, tmp_path: Path, kept: type[Kept]):
    options = {"recipe": "line", "options": {"lr": 0.1}}
    how = {"log_to": ("mlflow",), "name": "mine", "folder": tmp_path}
    with pytest.raises(Stopped):
        train(make(stop=5, options=options, **how))
    assert kept.every[0].begun == Begun("mine", tmp_path, 0, {"lr": 0.1})
    with pytest.raises(ZeroDivisionError):
        train(make(resume=True, loss_fn=lambda p, y: 1 / 0, **how))
    train(make(resume=True, **how))
    assert [one.status for one in kept.every] == ["stopped", "failed", "finished"]
    assert [one.begun.run_id for one in kept.every] == [None, "id0", "id0"]  # one run goes on
    rows = [row for one in kept.every for row in one.rows]
    assert [row["step"] for row in rows] == [3, 4, 6, 8, 9, 12, 12]


@pytest.mark.parametrize("text", ["", "[]", '{"mlflow": 3}', '{"mlflow": "../x"}', "\x00", "{}"])
def test_an_id_that_was_changed_is_not_taken(
    make: Any, tmp_path: Path, kept: type[Kept], text: str
):
    how = {"log_to": ("mlflow",), "folder": tmp_path}
    with pytest.raises(Stopped):
        train(make(stop=5, **how))
    assert json.loads((tmp_path / "logged.json").read_text()) == {"mlflow": "id0"}
    (tmp_path / "logged.json").write_text(text)
    train(make(resume=True, **how))
    assert kept.every[1].begun.run_id is None
