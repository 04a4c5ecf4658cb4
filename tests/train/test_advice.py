"""Advice comes where a loss diverged or did not move, and nowhere else."""

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from steepest.recipes import line
from steepest.train import read_metrics, train
from steepest.train.shown.advice import advice


def epochs(losses: list[float | None]) -> list[dict[str, Any]]:
    return [{"kind": "epoch", "step": 10 * k, "loss": loss} for k, loss in enumerate(losses, 1)]


def noisy(level: float, share: float, n: int, seed: int) -> list[float | None]:
    chance = random.Random(seed)
    return [level * (1 + share * chance.gauss(0, 1)) for _ in range(n)]


SAID = {
    "not finite": ([1.0, 0.5, None], "diverged, until it was not finite"),
    "NaN": ([1.0, math.nan], "diverged, until it was not finite"),
    "rose": ([1.0, 0.5, 2.1], "diverged, from 0.5 to 2.1"),
    "rose at once": ([3.0, 1e9], "diverged, from 3 to 1e+09"),
    "constant": ([0.7] * 3, "stood still at 0.7 for 3 epochs"),
    "rounding": ([2.3025851, 2.3025852, 2.3025850], "no gradient reaches the parameters"),
    "crept": ([2.3 - 0.001 * k for k in range(6)], "fell by only 0.22% in 6 epochs"),
    "crept, noisy": (
        [2.3 - 0.001 * k + 0.0004 * (-1) ** k for k in range(12)],
        "as fast at the end as at the start",
    ),
}


@pytest.mark.parametrize(("losses", "words"), SAID.values(), ids=SAID)
def test_what_went_wrong_is_said(losses: list[float | None], words: str):
    said = advice(epochs(losses), "steepest find-lr line")
    assert said is not None
    assert words in said
    assert said.endswith(": steepest find-lr line finds a learning rate")


SILENT: dict[str, list[float | None]] = {
    "no row": [],
    "one epoch": [0.7],
    "two epochs": [0.7, 0.7],
    "learned": [1.0, 0.1, 0.01, 0.005, 0.004, 0.0039],
    "rose again, below the first": [9.0, 0.1, 0.5],
    "rose a little": [1.0, 0.9, 1.1],
    "perfect": [0.0, 0.0, 0.0, 0.0],
    "as good as perfect": [1e-13, 2e-13, 8e-13, 1e-12],
    "all but perfect, unmoved": [1e-9] * 6,
    "slowing down": [1.0, 0.995, 0.9935, 0.993, 0.9929, 0.9929],
    "negative and falling": [-1.0, -2.0, -3.0],
    "tiny falls": [1 - 1e-4 * k for k in range(6)],
    "slowing": [1.0, 0.9988, 0.9978, 0.997, 0.9964, 0.996],
}


@pytest.mark.parametrize("losses", SILENT.values(), ids=SILENT)
def test_what_went_well_gets_no_advice(losses: list[float | None]):
    assert advice(epochs(losses)) is None


@pytest.mark.parametrize("share", [1e-5, 1e-3, 1e-2, 0.1])
def test_a_loss_that_changes_by_chance_alone_gets_none(share: float):
    said = [advice(epochs(noisy(0.01, share, 8, seed))) for seed in range(200)]
    assert sum(one is not None for one in said) <= 1


def stepping(*ratios: float | None, loss: float = 0.7) -> list[dict[str, Any]]:
    return [
        {
            "kind": "step",
            "step": 50 * k,
            "loss": loss * (1 + 0.01 * (-1) ** k),
            "ratios": dict(enumerate(ratios)),
        }
        for k in range(1, 21)
    ]


def test_parameters_that_hardly_move_are_told():
    said = advice(stepping(1e-8, 0.1, 1e-8))  # the second began with zeros
    assert said is not None
    assert "moved, by 1e-05 of their size in 1,000 updates, so that lr is too low" in said


@pytest.mark.parametrize(
    "rows",
    [stepping(2e-7), stepping(None), stepping(1e-8, loss=1e-7), stepping(1e-8, 1e-3, 1e-3)],
    ids=["moved", "no size", "learned", "most moved"],
)
def test_parameters_that_move_are_not(rows: list[dict[str, Any]]):
    assert advice(rows) is None


def trained(folder: Path, **changed: Any) -> tuple[str | None, str | None]:
    """Return the advice by a run's history and by its metrics file."""
    model = changed.pop("model", None)
    run = replace(line.run(**changed), folder=folder, progress=False)
    if model is not None:
        with torch.no_grad():
            run.model.weight.fill_(model[0])  # type: ignore[operator, union-attr]
            run.model.bias.fill_(model[1])  # type: ignore[operator, union-attr]
    report = train(run)
    return advice(report.history), advice(read_metrics(folder / "metrics.jsonl"))


@pytest.mark.parametrize("noise", [0.1, 1e-3, 1e-5, 0.0])
@pytest.mark.parametrize("lr", [0.1, 1e-2, 1e-3, 1e-4])
def test_a_run_that_begins_at_its_optimum_gets_none(tmp_path: Path, noise: float, lr: float):
    for seed in range(3):
        folder = tmp_path / str(seed)
        said = trained(folder, lr=lr, noise=noise, rows=2000, seed=seed, model=(3.0, 0.0))
        assert said == (None, None)


def test_a_run_that_learns_gets_none(tmp_path: Path):
    assert trained(tmp_path) == (None, None)


@pytest.mark.parametrize(
    ("lr", "by_history", "by_file"),
    [(1e-6, "fell by only", "fell by only"), (1e-12, "still", "still")],
)
def test_a_run_whose_lr_is_too_low_is_told(
    tmp_path: Path, lr: float, by_history: str | None, by_file: str
):
    history, file = trained(tmp_path, lr=lr, epochs=6)
    assert by_history in history if by_history and history else history is by_history
    assert file is not None
    assert by_file in file


def test_a_run_whose_lr_is_too_high_is_told(tmp_path: Path):
    for said in trained(tmp_path, lr=1.05, rows=500):
        assert said is not None
        assert "the loss diverged" in said
