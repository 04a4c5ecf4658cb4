"""Several batches make one update: that of one batch as large as all of them."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from steepest import optim, schedules
from steepest.data import Batches
from steepest.errors import RecipeError
from steepest.train import RunError, Stopped, read_metrics, train

OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "Adam, clipped": lambda p: optim.Adam(p, lr=0.1, clip_norm=0.5),
    "torch Adam": lambda p: torch.optim.Adam(p, lr=0.1),
}
SETTINGS = {
    "plain": {},
    "clipped": {"clip_norm": 0.5},
    "scheduled": {"schedule": lambda optimizer: schedules.cosine(total=6)},
    "StepLR": {"schedule": lambda o: torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.5)},
}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


PAIRS = [
    (o, how) for o in OPTIMIZERS for how in SETTINGS if not ("clipped" in o and how == "clipped")
]


@pytest.mark.parametrize("accumulate", [2, 3, 4, 9])
@pytest.mark.parametrize(("optimizer", "how"), PAIRS)
def test_equals_one_large_batch(
    make: Any, data: tuple[Tensor, Tensor], accumulate: int, optimizer: str, how: str
):
    """The last batch has 2 rows of 4, and the last window fewer batches than the others."""
    options = {"model": mlp, "optimizer": OPTIMIZERS[optimizer], **SETTINGS[how]}
    small = make(accumulate=accumulate, **options)
    large = make(batches=Batches(*data, batch_size=4 * accumulate), **options)
    reports = [train(small), train(large)]
    for p, q in zip(small.model.parameters(), large.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    ours, theirs = (
        [(row["step"], row["samples"], row["lr"]) for row in r.history] for r in reports
    )
    assert ours == theirs
    losses = [[row["loss"] for row in report.history] for report in reports]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_one_clock_counts_updates(make: Any, tmp_path: Path):
    asked: list[int] = []

    def schedule(step: int) -> float:
        asked.append(step)
        return 1.0

    run = make(accumulate=3, schedule=lambda _: schedule, folder=tmp_path / "a", log_steps=2)
    report = train(run)
    assert report.steps == 6  # of 12 batches: windows of 3 and 1
    assert asked == list(range(6))
    rows = read_metrics(tmp_path / "a" / "metrics.jsonl")
    assert [(r["kind"], r["epoch"], r["step"], r["samples"]) for r in rows] == [
        ("step", 1, 2, 14),
        ("epoch", 1, 2, 14),
        ("step", 2, 4, 28),
        ("epoch", 2, 4, 28),
        ("step", 3, 6, 42),
        ("epoch", 3, 6, 42),
    ]


def test_a_logged_update_tells_of_its_whole_window(
    make: Any, data: tuple[Tensor, Tensor], tmp_path: Path
):
    """The gradients' norm is that of the sum, before they are clipped."""
    rows = []
    for name, how in {
        "a": {"accumulate": 2},
        "b": {"batches": Batches(*data, batch_size=8)},
    }.items():
        train(make(model=mlp, folder=tmp_path / name, log_steps=1, clip_norm=0.01, **how))
        rows.append(read_metrics(tmp_path / name / "metrics.jsonl"))
    for ours, theirs in zip(*rows, strict=True):
        for key in {"loss", "gradient_norm"} & theirs.keys():
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4)
        assert ours.get("ratios", {}) == pytest.approx(theirs.get("ratios", {}), rel=1e-3)
    assert rows[0][0]["gradient_norm"] > 0.01


@pytest.mark.parametrize("loader", [False, True], ids=["Batches", "DataLoader"])
@pytest.mark.parametrize("stop", range(1, 13))
def test_stopped_in_every_window(
    make: Any,
    outcome: Any,
    same: Any,
    data: tuple[Tensor, Tensor],
    tmp_path: Path,
    stop: int,
    loader: bool,
):
    how: dict[str, Any] = {"accumulate": 3, "schedule": lambda _: schedules.cosine(total=6)}
    if loader:
        how["batches"] = DataLoader(TensorDataset(*data), batch_size=4, shuffle=True)
    with pytest.raises(Stopped) as caught:  # after the whole update
        train(make(folder=tmp_path / "a", stop=stop, **how))
    assert caught.value.step == 2 * ((stop - 1) // 4) + math.ceil(((stop - 1) % 4 + 1) / 3)
    again = make(folder=tmp_path / "a", resume=True, **how)
    whole = make(folder=tmp_path / "b", **how)
    same(outcome(whole, train(whole)), outcome(again, train(again)))


def test_a_loss_that_is_not_finite_within_a_window_reaches_no_parameter(
    make: Any, data: tuple[Tensor, Tensor]
):
    x, y = data
    y[5] = math.nan  # of the second batch
    run = make(model=mlp, accumulate=2, batches=Batches(x, y, batch_size=4, shuffle=False))
    before = [p.clone() for p in run.model.parameters()]
    with pytest.raises(RunError, match=r"at step 1 \(epoch 1, .*row 5 of the data"):
        train(run)
    assert all(torch.equal(p, b) for p, b in zip(run.model.parameters(), before, strict=True))


@pytest.mark.parametrize("accumulate", [0, -1, 1.5, True, None])
def test_a_window_is_a_number_of_batches(make: Any, accumulate: Any):
    with pytest.raises(
        RecipeError, match=f"accumulate is a whole number above 0: got {accumulate}"
    ):
        make(accumulate=accumulate)
