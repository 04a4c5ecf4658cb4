"""The built-in recipes train what they say."""

import inspect
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch import nn

from steepest.data import Stream
from steepest.data.transform import fit
from steepest.errors import DataError, HyperparameterError, RecipeError
from steepest.optim.named import UNFIT, optimizer_names
from steepest.recipes import find_recipe, line, recipe_lines, table
from steepest.train import Run, train

EXAMPLES = Path(__file__).parents[2] / "examples"
OPTIMIZERS = [name for name in optimizer_names() if name not in UNFIT]


def quiet(run: Run) -> Run:
    from dataclasses import replace

    return replace(run, progress=False)


def test_every_recipe_documents_every_option():
    for name in recipe_lines():
        recipe = find_recipe(name)
        text = inspect.getdoc(recipe) or ""
        for option in inspect.signature(recipe).parameters:
            assert f"\n    {option}: " in text, (name, option)


def test_every_recipe_has_a_line():
    assert recipe_lines().keys() == {"chars", "digits", "line", "table"}
    assert all(text.endswith(".") for text in recipe_lines().values())


def test_line_learns_the_slope():
    run = line.run()
    report = train(quiet(run))
    assert run.model.weight.item() == pytest.approx(3.0, abs=0.02)  # type: ignore[union-attr]
    assert run.model.bias.item() == pytest.approx(0.0, abs=0.02)  # type: ignore[union-attr]
    assert report.final["validation_loss"] == pytest.approx(0.01, rel=0.1)
    assert report.result.startswith("learned y = 3.0")


def test_line_is_the_same_each_time_and_another_for_another_seed():
    losses = [train(quiet(line.run(seed=s, epochs=1))).final["loss"] for s in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_line_of_few_rows_has_no_validation():
    assert line.run(rows=4).validation is None


def test_table_regression():
    data = EXAMPLES / "diabetes.csv"
    report = train(quiet(table.run(data=data, target="progression", epochs=20)))
    assert report.final["validation_loss"] < 0.6
    assert report.final["validation_r2"] > 0.5
    assert 30 < report.final["validation_mae"] < 60  # in the target's own units


def test_table_classification():
    report = train(quiet(table.run(data=EXAMPLES / "iris.csv", target="species", hidden=(16,))))
    assert report.final["validation_accuracy"] > 0.9


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "options", [{}, {"schedule": "cosine", "warmup": 3, "clip_norm": 1.0, "hidden": (4,)}], ids=str
)
def test_table_with_every_optimizer(optimizer: str, options: dict[str, Any]):
    data = EXAMPLES / "iris.csv"
    run = table.run(data=data, target="species", optimizer=optimizer, epochs=5, **options)
    assert type(run.optimizer).__name__ == optimizer
    assert train(quiet(run)).steps == 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimizer": "LBFGS"}, "no closure: take one of .*Adam, "),
        ({"optimizer": "LBFGS", "clip_norm": 1.0}, "no closure: take one of .*Adam, "),
        ({"optimizer": "Muon"}, "this model has biases: take one of .*Adam, "),
        ({"optimizer": "SparseAdam"}, "those of this model are dense: take one of .*Adam, "),
        ({"optimizer": "Rprop", "weight_decay": 0.1}, "no weight decay: got 0.1; leave it out"),
    ],
)
def test_table_refuses_an_optimizer_that_cannot_serve(options: dict[str, Any], words: str):
    with pytest.raises(RecipeError, match=words):
        table.run(data=EXAMPLES / "iris.csv", target="species", **options)


def test_the_whole_table_may_be_trained_on():
    run = table.run(data=EXAMPLES / "iris.csv", target="species", epochs=1, validation=0)
    assert run.validation is None
    assert run.metrics == {}
    assert train(quiet(run)).steps == 5


def test_the_schedule_spans_the_run():
    run = table.run(
        data=EXAMPLES / "iris.csv", target="species", schedule="linear", warmup=4, epochs=5
    )
    assert callable(run.schedule)
    shares = [run.schedule(step) for step in range(20)]
    assert shares[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert shares[-1] == pytest.approx(1 / 16)


REFUSED = {
    "optimizer": ({"optimizer": "Adm"}, RecipeError, "got 'Adm' .did you mean 'Adam'?"),
    "no optimizer": ({"optimizer": "lr_scheduler"}, RecipeError, "optimizer is one of"),
    "lr": ({"lr": -1.0}, HyperparameterError, "lr"),
    "clip_norm": ({"clip_norm": 0.0}, HyperparameterError, "clip_norm"),
    "hidden": ({"hidden": (4, 0)}, RecipeError, "hidden holds widths of at least 1: got 4 0"),
    "warmup": ({"warmup": 20, "epochs": 5}, RecipeError, "from 0 to below the run's 20: got 20"),
    "negative warmup": ({"warmup": -1}, RecipeError, "got -1"),
    "target": ({"target": "specie"}, DataError, "did you mean 'species'"),
    "file": ({"data": EXAMPLES / "absent.csv"}, DataError, "there is no file"),
    "batch_size": ({"batch_size": 0}, DataError, "batch_size"),
    "validation": ({"validation": 1.0}, DataError, "validation"),
    "task": ({"task": "regression"}, DataError, "species"),
    "device": ({"device": "nowhere"}, RecipeError, "got 'nowhere'"),
}


@pytest.mark.parametrize(("changed", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused(changed: dict[str, Any], error: type, message: str):
    options: dict[str, Any] = {"data": EXAMPLES / "iris.csv", "target": "species"}
    with pytest.raises(error, match=message):
        table.run(**(options | changed))


def test_columns_are_told_before_the_training(capsys: pytest.CaptureFixture[str]):
    train(table.run(data=EXAMPLES / "iris.csv", target="species", epochs=1, drop=("petal_width",)))
    lines = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    first = lines.index("columns column role values becomes")
    assert lines[first + 2].startswith("species target 150 3 classes: setosa")
    assert "petal_width none 150 left out: drop names it" in lines
    assert first < next(i for i, line in enumerate(lines) if line.startswith("epoch 1/1"))


def test_a_table_larger_than_memory_is_streamed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(table, "is_large", lambda _: True)
    run = table.run(data=EXAMPLES / "diabetes.csv", target="progression", epochs=2)
    assert isinstance(run.batches, Stream)
    assert train(quiet(run)).final["validation_r2"] > 0


def test_roles_of_columns_are_options():
    data = EXAMPLES / "diabetes.csv"
    run = table.run(data=data, target="progression", drop=("bp", "s1"), categorical=("sex",))
    features = run.transform.features  # type: ignore[union-attr]
    assert features == ("age", "sex=1", "sex=2", "bmi", "s2", "s3", "s4", "s5", "s6")


@pytest.mark.parametrize(
    ("hidden", "shapes"), [((), [(1, 3)]), ((5, 7), [(5, 3), (7, 5), (1, 7)])], ids=str
)
def test_the_model(hidden: tuple[int, ...], shapes: list[tuple[int, int]]):
    frame = pl.DataFrame({"a": [1, 2], "b": [3, 4], "c": [5, 7], "y": [1.5, 2.5]})
    transform, _ = fit(frame, target="y")
    model = table.network(transform, hidden)
    assert [tuple(layer.weight.shape) for layer in model if isinstance(layer, nn.Linear)] == shapes
    assert model(torch.zeros(2, 3)).shape == (2, 1)
