"""What validation measures: means, torchmetrics' numbers against scikit-learn's, predictions."""

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as theirs
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torchmetrics import MeanSquaredError
from torchmetrics.classification import MulticlassAUROC

from steepest import data, optim
from steepest.data import Batches
from steepest.errors import RecipeError
from steepest.train import Stopped, metrics_for, train, validate

N, CLASSES = 23, 3  # in batches of 7 the last one has 2 rows


def numbers(n: int = N) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    prediction = torch.randn(n, 1, generator=generator)
    return prediction, prediction + 0.5 * torch.randn(n, 1, generator=generator)


def classes(n: int = N, known: int = CLASSES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(n, CLASSES, generator=generator)
    return logits, torch.randint(known, (n,), generator=generator)


def measure(prediction: Tensor, target: Tensor, metrics: Any, loss_fn: Any = F.mse_loss) -> Any:
    """Measure predictions in batches of 7, by a model that hands them on."""
    batches = Batches(prediction, target, batch_size=7, shuffle=False)
    return validate(nn.Identity(), loss_fn, batches, metrics)


@pytest.mark.parametrize("scale", [1.0, 250.0])
@pytest.mark.parametrize("shape", [(N, 1), (N,), (N, 1, 1)], ids=str)
def test_regression_metrics(shape: tuple[int, ...], scale: float):
    prediction, target = (part.reshape(shape) for part in numbers())
    found = measure(prediction, target, metrics_for("regression", scale=scale))
    p, t = (part.flatten().double().numpy() * scale for part in (prediction, target))
    expected = {
        "loss": F.mse_loss(prediction, target).item(),
        "mse": theirs.mean_squared_error(t, p),
        "mae": theirs.mean_absolute_error(t, p),
        "r2": theirs.r2_score(t, p),
    }
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, rel=1e-5)


def test_classification_metrics():
    logits, target = classes()
    found = measure(logits, target, metrics_for("classification", classes=3), F.cross_entropy)
    chances, guessed = logits.softmax(1).numpy(), logits.argmax(1)
    expected = {
        "loss": F.cross_entropy(logits, target).item(),
        "accuracy": theirs.accuracy_score(target, guessed),
        "f1": theirs.f1_score(target, guessed, average="macro"),
        "auroc": theirs.roc_auc_score(target, chances, multi_class="ovr", average="macro"),
    }
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_class_without_rows_is_left_out_of_the_means():
    logits, target = classes(known=2)
    logits[:, 2] -= 100  # nor predicted
    found = measure(logits, target, metrics_for("classification", classes=3), F.cross_entropy)
    guessed, chances = logits.argmax(1), logits.softmax(1)
    ranked = [theirs.roc_auc_score(target == k, chances[:, k]) for k in range(2)]
    assert found["f1"] == pytest.approx(theirs.f1_score(target, guessed, average="macro"))
    assert found["auroc"] == pytest.approx(np.mean(ranked), rel=1e-5)


@pytest.mark.parametrize(
    ("rows", "target"),
    [(1, torch.ones(1, 1)), (4, torch.ones(4, 1)), (4, torch.tensor([[0], [1], [2], [3]]))],
    ids=["one row", "one value", "whole numbers"],
)
def test_targets_of_any_kind_are_measured(rows: int, target: Tensor):
    prediction = torch.arange(rows).float().unsqueeze(1) + 0.5
    found = measure(prediction, target, metrics_for("regression"))
    assert found["mse"] == pytest.approx(((prediction - target) ** 2).mean().item())
    assert math.isnan(found["r2"]) == (rows == 1)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int64], ids=str)
def test_labels_of_any_integers_are_measured(dtype: torch.dtype):
    logits, target = classes()
    zero = lambda p, t: p.sum() * 0  # noqa: E731
    found = measure(logits, target.to(dtype), metrics_for("classification", classes=3), zero)
    assert found == measure(logits, target, metrics_for("classification", classes=3), zero)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_predictions_of_16_bits_are_summed_in_32(half: torch.dtype):
    prediction, target = (300 * part for part in numbers())  # squares beyond the largest of 16 bits
    zero = lambda p, t: p.sum() * 0.0  # noqa: E731
    found = measure(prediction.to(half), target, metrics_for("regression"), zero)
    exact = measure(prediction, target, metrics_for("regression"), zero)
    assert found == pytest.approx(exact, rel=0.02)
    logits, labels = classes(500)
    metrics = metrics_for("classification", classes=3)
    found = measure(logits.to(half), labels, metrics, zero)  # chances of 16 bits have many ties
    assert found == measure(logits.to(half).float(), labels, metrics, zero)


@pytest.mark.parametrize(("one", "other"), [((N, 1), (N,)), ((N,), (N, 1))], ids=str)
def test_shapes_that_would_be_broadcast_are_refused(one: Any, other: Any):
    prediction, target = numbers()
    metrics = metrics_for("regression")
    zero = lambda p, t: p.sum() * 0  # noqa: E731
    with pytest.raises(RecipeError, match=r"have one shape, .*: got \(23.*unsqueeze the target"):
        measure(prediction.reshape(one), target.reshape(other), metrics, zero)


def test_another_task_is_refused():
    with pytest.raises(RecipeError, match="task is 'regression' or 'classification': got 'rank'"):
        metrics_for("rank")  # type: ignore[arg-type]


def test_own_functions_and_torchmetrics_stand_side_by_side():
    """A metric with a memory begins anew at every validation and sees each row once."""
    prediction, target = numbers()
    metrics = {"own": F.l1_loss, "theirs": MeanSquaredError(), **metrics_for("regression")}
    twice = [measure(prediction, target, metrics) for _ in range(2)]
    assert twice[0] == twice[1]
    assert list(twice[0]) == ["loss", "own", "theirs", "mse", "mae", "r2"]
    assert twice[0]["own"] == pytest.approx(twice[0]["mae"])
    assert twice[0]["theirs"] == pytest.approx(twice[0]["mse"])


def test_no_rows_are_no_number():
    metrics = {"own": F.l1_loss, **metrics_for("regression")}
    found = validate(nn.Identity(), F.mse_loss, [], metrics)
    assert list(found) == ["loss", "own", "mse", "mae", "r2"]
    assert all(map(math.isnan, found.values()))


def test_a_metric_that_warns_of_a_missing_class_does_not_stop_a_run(make: Any):
    """Every warning is an error in these tests."""
    x, y = torch.randn(6, 3), torch.zeros(6, dtype=torch.int64)
    metrics = {"a": MulticlassAUROC(2), **metrics_for("classification")}
    how = {"model": lambda: nn.Linear(3, 2), "loss_fn": F.cross_entropy, "batches": [(x, y)]}
    report = train(make(validation=[(x, y)], metrics=metrics, **how))
    assert set(report.final) >= {"validation_a", "validation_auroc", "validation_f1"}


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_given_back_when_a_metric_raises(training: bool):
    class BrokenError(Exception):
        pass

    def broken(prediction: Tensor, target: Tensor) -> float:
        raise BrokenError

    model = nn.Dropout().train(training)
    with pytest.raises(BrokenError):
        validate(model, F.mse_loss, [numbers()], {"broken": broken})
    assert model.training == training


class Noisy(Dataset):
    """Rows with noise, which every random state gives a part of."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(1) + random.random() + float(np.random.rand())
        return torch.full((3,), float(row)), noise


@pytest.mark.parametrize("loader", [DataLoader, data.DataLoader], ids=["torch", "steepest"])
@pytest.mark.parametrize("how", [{}, {"validate_steps": 3}], ids=["epochs", "updates"])
def test_a_validation_draws_no_random_number_of_the_training(
    make: Any, same: Any, how: Any, loader: Any
):
    """Dropout, the order of a loader and noise go on as without it."""
    train_on = TensorDataset(torch.randn(14, 3), torch.randn(14, 1))
    models = []
    for more in ({"validation": None}, {"validation": loader(Noisy(), 4, shuffle=True), **how}):
        run = make(batches=loader(train_on, 4, shuffle=True), **more)
        train(run)
        models.append(run.model.state_dict())
    same(*models)


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter([(torch.zeros(3), torch.zeros(1))] * 6)


@pytest.mark.parametrize("how", [{}, {"validate_steps": 3}], ids=["epochs", "updates"])
def test_a_stream_is_validated_on(make: Any, tmp_path: Path, how: Any):
    """It has no length, and so no truth."""
    report = train(make(validation=DataLoader(Stream(), 4), folder=tmp_path, **how))
    assert math.isfinite(report.final["validation_loss"])


def test_a_validation_is_in_the_same_order_after_a_resume(
    make: Any, outcome: Any, same: Any, tmp_path: Path
):
    """Shuffled batches, too: the sums of their losses are the same to the last bit."""
    held_out = [Batches(torch.randn(50, 3), torch.randn(50, 1), batch_size=7) for _ in range(3)]
    with pytest.raises(Stopped):
        train(make(folder=tmp_path / "a", validation=held_out[0], stop=6))
    held_out[1].tensors = held_out[2].tensors = held_out[0].tensors
    again = make(folder=tmp_path / "a", validation=held_out[1], resume=True)
    whole = make(folder=tmp_path / "b", validation=held_out[2])
    same(outcome(whole, train(whole)), outcome(again, train(again)))


# ---- evaluation.json ---------------------------------------------------------------------------


class Units:
    """What a table's transform tells of its target."""

    target_mean, target_std, classes = 10.0, 2.0, ("no", "yes")

    def to_json(self) -> str:
        return "{}"


def evaluated(make: Any, folder: Path, **how: Any) -> Any:
    run = make(optimizer=lambda p: optim.SGD(p, lr=0.0), folder=folder, epochs=1, **how)
    train(run)
    path = folder / "evaluation.json"
    return run.model, json.loads(path.read_text()) if path.exists() else None


@pytest.mark.parametrize("flat", [False, True], ids=["(n, 1)", "(n,)"])
def test_a_regression_leaves_predictions_in_its_own_units(make: Any, tmp_path: Path, flat: bool):
    x, y = torch.randn(N, 3), torch.randn(N, 1)
    model = nn.Sequential(nn.Linear(3, 1), *[nn.Flatten(0)] * flat)
    held_out = Batches(x, y.flatten() if flat else y, batch_size=7, shuffle=False)
    how = {"batches": held_out, "validation": held_out, "transform": Units()}
    model, found = evaluated(make, tmp_path, model=lambda: model, **how)
    assert found.keys() == {"task", "target", "prediction"}
    assert found["task"] == "regression"
    assert found["target"] == pytest.approx((2 * y.flatten() + 10).tolist())
    assert found["prediction"] == pytest.approx((2 * model(x).flatten() + 10).tolist())


@pytest.mark.parametrize(
    ("rows", "shown"), [(1999, 1999), (2000, 2000), (2001, 1001), (9001, 1801)]
)
def test_at_most_2000_rows_evenly_spaced(make: Any, tmp_path: Path, rows: int, shown: int):
    x = torch.arange(rows).float().unsqueeze(1)
    held_out = Batches(x, x, batch_size=512, shuffle=False)
    loss_fn = lambda p, y: p.sum() * 0  # noqa: E731
    how = {"batches": [(x[:2], x[:2])], "validation": held_out, "loss_fn": loss_fn}
    _, found = evaluated(make, tmp_path, model=lambda: nn.Linear(1, 1), **how)
    assert len(found["target"]) == len(found["prediction"]) == shown
    gaps = {b - a for a, b in zip(found["target"], found["target"][1:], strict=False)}
    assert len(gaps) == 1


def test_a_classification_leaves_its_confusion(make: Any, tmp_path: Path):
    x, y = torch.randn(N, 3), torch.randint(2, (N,))
    held_out = Batches(x, y, batch_size=7, shuffle=False)
    how = {"batches": held_out, "validation": held_out, "loss_fn": F.cross_entropy}
    model, found = evaluated(
        make, tmp_path, model=lambda: nn.Linear(3, 2), transform=Units(), **how
    )
    assert (found["task"], found["classes"]) == ("classification", ["no", "yes"])
    guessed = model(x).argmax(1)
    assert found["confusion"] == theirs.confusion_matrix(y, guessed).tolist()


def test_rows_that_a_loss_ignores_are_not_counted(make: Any, tmp_path: Path):
    x, y = torch.randn(N, 3), torch.randint(2, (N,))
    y[:5] = -100
    how = {"batches": [(x, y)], "validation": [(x, y)], "loss_fn": F.cross_entropy}
    _, found = evaluated(make, tmp_path, model=lambda: nn.Linear(3, 2), **how)
    assert np.sum(found["confusion"]) == N - 5
    assert found["classes"] == ["0", "1"]


class Pair(nn.Linear):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


def several(prediction: Any, target: Tensor) -> Tensor:
    return (prediction[0] if isinstance(prediction, tuple) else prediction).mean()


@pytest.mark.parametrize(
    "model",
    [lambda: Pair(3, 1), lambda: nn.Linear(3, 2), lambda: nn.Linear(3, 101)],
    ids=["a tuple", "two numbers", "many classes"],
)
def test_other_tasks_leave_none(make: Any, tmp_path: Path, model: Any):
    x, y = torch.randn(N, 3), torch.randn(N, 2)
    if model().weight.shape[0] > 100:
        y = torch.zeros(N, dtype=torch.int64)
    how = {"batches": [(x, y)], "validation": [(x, y)], "loss_fn": several}
    assert evaluated(make, tmp_path, model=model, **how)[1] is None


def test_predictions_that_are_not_finite_are_null(make: Any, tmp_path: Path):
    x, y = torch.randn(4, 3), torch.randn(4, 1)
    x[1] = math.inf
    how = {"batches": [(x[:1], y[:1])], "validation": [(x, y)]}
    _, found = evaluated(make, tmp_path, model=lambda: nn.Linear(3, 1), **how)
    assert [value is None for value in found["prediction"]] == [False, True, False, False]


class Once:
    """Validation batches that are read once more for what the best weights predict."""

    def __init__(self) -> None:
        self.reads = 0

    def __iter__(self) -> Iterator[Any]:
        self.reads += 1
        return iter([(torch.zeros(2, 3), torch.zeros(2, 1))])


def test_the_validation_is_read_once_more_at_the_end_of_a_run_with_a_folder(
    make: Any, tmp_path: Path
):
    reads = []
    for folder in (None, tmp_path):
        validation = Once()
        train(make(validation=validation, folder=folder))
        reads.append(validation.reads)
    assert reads == [3, 4]
