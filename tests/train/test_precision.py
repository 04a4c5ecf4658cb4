"""Automatic mixed precision: torch's own recipe, kept through overflows, stops and resumes."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steepest import optim
from steepest.data import Batches
from steepest.errors import RecipeError
from steepest.train import Stopped, read_metrics, train
from steepest.train.files.checkpoints import Checkpoints

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}
OPTIMIZERS = {
    "Adam": lambda p: optim.Adam(p, lr=0.05),
    "Adam, clipped": lambda p: optim.Adam(p, lr=0.05, clip_norm=0.1),
    "SGD, the reference": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, fused=False),
    "torch Adam": lambda p: torch.optim.Adam(p, lr=0.05),
}


class Seen(nn.Module):
    """A linear model that notes what it computes in."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.dtypes: list[tuple[bool, torch.dtype]] = []

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        self.dtypes.append((self.training, y.dtype))
        return y


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_what_is_computed_in_16_bits(make: Any, precision: str):
    losses: list[tuple[torch.dtype, torch.dtype]] = []

    def loss_fn(prediction: Tensor, target: Tensor) -> Tensor:
        loss = nn.functional.mse_loss(prediction, target)
        losses.append((prediction.dtype, loss.dtype))
        return loss

    run = make(model=Seen, precision=precision, loss_fn=loss_fn, epochs=1)
    train(run)
    half = HALF.get(precision, torch.float32)
    assert set(run.model.dtypes) == {(True, half), (False, half)}
    assert set(losses) == {(half, torch.float32)}  # autocast's loss, in validation too
    assert all(p.dtype == torch.float32 for p in run.model.parameters())


@pytest.mark.parametrize("precision", HALF)
def test_a_validation_measures_the_loss_as_training_does(
    make: Any, data: tuple[Tensor, Tensor], precision: str
):
    """Logits of 16 bits give a loss of 32 under autocast, and of 8 bits without."""
    x, y = data
    classes = (y.flatten() > 0).long()
    how = {
        "model": lambda: nn.Linear(3, 2),
        "loss_fn": nn.functional.cross_entropy,
        "optimizer": lambda p: optim.SGD(p, lr=0.0),
        "batches": [(x, classes)],
        "validation": [(x, classes)],
        "metrics": {"same": nn.functional.cross_entropy},
    }
    row = train(make(precision=precision, **how)).final
    assert row["loss"] == row["validation_loss"] == row["validation_same"]


def torchs_adam(p: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(p, lr=0.05)


def torchs_sgd(p: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(p, lr=0.05, momentum=0.9)


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize(
    ("optimizer", "clip_norm", "theirs", "their_clip_norm"),
    [
        ("Adam", None, torchs_adam, None),
        ("Adam", 0.1, torchs_adam, 0.1),
        ("Adam, clipped", None, torchs_adam, 0.1),
        ("SGD, the reference", None, torchs_sgd, None),
        ("SGD, the reference", 0.1, torchs_sgd, 0.1),
        ("torch Adam", 0.1, torchs_adam, 0.1),
    ],
)
def test_equals_torchs_recipe(
    make: Any,
    data: tuple[Tensor, Tensor],
    precision: str,
    optimizer: str,
    clip_norm: float | None,
    theirs: Any,
    their_clip_norm: float | None,
):
    one = {"model": lambda: nn.Linear(3, 1)}
    run = make(precision=precision, clip_norm=clip_norm, optimizer=OPTIMIZERS[optimizer], **one)
    train(run)
    twin = make(optimizer=theirs, **one)
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "float16")
    for epoch in range(3):
        for x, y in Batches(*data, batch_size=4).epoch(epoch):
            with torch.autocast("cpu", HALF[precision]):
                loss = nn.functional.mse_loss(twin.model(x), y)
            twin.optimizer.zero_grad()
            scaler.scale(loss).backward()
            if their_clip_norm:
                scaler.unscale_(twin.optimizer)
                nn.utils.clip_grad_norm_(twin.model.parameters(), their_clip_norm)
            scaler.step(twin.optimizer)
            scaler.update()
    for p, q in zip(run.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    fresh = make(**one).model.parameters()
    assert not any(torch.equal(p, f) for p, f in zip(run.model.parameters(), fresh, strict=True))


def steep(prediction: Tensor, target: Tensor) -> Tensor:
    """A loss whose gradients overflow 16 bits until the scale has been lowered a few times."""
    return 10 * nn.functional.mse_loss(prediction, target)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_that_overflows_is_left_out(make: Any, tmp_path: Path, optimizer: str):
    seen: list[list[Tensor]] = []

    def schedule(step: int) -> float:
        seen.append([p.detach().clone() for p in run.model.parameters()])
        return 1.0

    run = make(
        model=lambda: nn.Linear(3, 1),
        optimizer=OPTIMIZERS[optimizer],
        precision="float16",
        loss_fn=steep,
        schedule=lambda _: schedule,
        folder=tmp_path,
        log_steps=1,
    )
    report = train(run)
    assert report.steps == len(seen) == 12  # left out or not, one clock counts them
    schedule(12)
    left_out = [
        all(torch.equal(p, q) for p, q in zip(*pair, strict=True)) for pair in pairwise(seen)
    ]
    assert left_out[0]
    assert 1 < sum(left_out) < 9
    steps = [row for row in read_metrics(tmp_path / "metrics.jsonl") if row["kind"] == "step"]
    assert [row["gradient_norm"] is None for row in steps] == left_out
    assert [set(row["ratios"].values()) == {0.0} for row in steps] == left_out
    scaler = Checkpoints(tmp_path / "checkpoints").newest().state["scaler"]
    assert scaler["scale"] == 2.0 ** (16 - sum(left_out))
    assert scaler["_growth_tracker"] == left_out[::-1].index(True)


@pytest.mark.parametrize(("accumulate", "stop", "stops"), [(1, 1, 12), (2, 1, 6), (2, 2, 6)])
@pytest.mark.parametrize("optimizer", ["Adam, clipped", "torch Adam"])
def test_stopped_after_every_step_left_out_or_not(
    make: Any,
    outcome: Any,
    same: Any,
    tmp_path: Path,
    optimizer: str,
    accumulate: int,
    stop: int,
    stops: int,
):
    """One run after the other goes on for an update, and is stopped at a batch of it."""
    how = {
        "optimizer": OPTIMIZERS[optimizer],
        "precision": "float16",
        "loss_fn": steep,
        "accumulate": accumulate,
        "log_steps": 1,
    }
    for k in range(stops):
        with pytest.raises(Stopped, match=rf"\b{k + 1}\b"):
            train(make(folder=tmp_path / "a", stop=stop, resume=k > 0, **how))
    again = make(folder=tmp_path / "a", resume=True, **how)
    whole = make(folder=tmp_path / "b", **how)
    same(outcome(whole, train(whole)), outcome(again, train(again)))
    scalers = (
        Checkpoints(tmp_path / name / "checkpoints").newest().state["scaler"] for name in "ab"
    )
    assert next(scalers) == next(scalers)


@pytest.mark.parametrize("precision", HALF)
def test_the_gradients_norm_is_told_without_the_scale(make: Any, tmp_path: Path, precision: str):
    norms = []
    for name in ("float32", precision):
        how = {"model": Seen, "loss_fn": lambda p, y: nn.functional.mse_loss(p, y) / 100}
        train(make(precision=name, folder=tmp_path / name, log_steps=1, epochs=1, **how))
        rows = read_metrics(tmp_path / name / "metrics.jsonl")
        norms.append([row["gradient_norm"] for row in rows if row["kind"] == "step"])
    assert norms[0] == pytest.approx(norms[1], rel=0.02)


@pytest.mark.parametrize("precision", ["float64", "fp16", "", None])
def test_other_precisions_are_refused(make: Any, precision: Any):
    message = f"precision is one of 'float32', 'bfloat16', 'float16': got {precision!r}"
    with pytest.raises(RecipeError, match=message):
        make(precision=precision)
