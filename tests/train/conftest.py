"""What the tests of whole runs share: a small run, and what must be equal of two."""

import math
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steepest import optim
from steepest.data import Batches
from steepest.train import Report, Run, read_metrics
from steepest.train.shown import picture

X = torch.randn(14, 3, generator=torch.Generator().manual_seed(1))
Y = X.sum(1, keepdim=True)


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    """Features (14, 3) and targets (14, 1): four batches of 4, of which the last has 2 rows."""
    return X.clone(), Y.clone()


@pytest.fixture
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes longer than all the rest."""
    monkeypatch.setattr(picture, "draw_losses", lambda *_: None)


@pytest.fixture
def make(no_picture: None) -> Callable[..., Run]:
    """`make(**changed)` returns a small run; `stop` is the batch at which Ctrl-C is pressed.

    `model`, `optimizer` and `schedule` may be functions: of nothing, of the parameters, of the
    optimizer.
    """

    def made(stop: int | None = None, **changed: Any) -> Run:
        torch.manual_seed(3)
        model = changed.pop("model", net)()
        optimizer = changed.pop("optimizer", lambda p: optim.Adam(p, lr=0.05))(model.parameters())
        schedule = changed.pop("schedule", lambda optimizer: None)(optimizer)
        loss_fn = changed.pop("loss_fn", nn.functional.mse_loss)
        calls = 0

        def loss(prediction: Tensor, target: Tensor) -> Tensor:
            nonlocal calls
            calls += model.training
            if calls == stop and model.training:
                signal.raise_signal(signal.SIGINT)
            return loss_fn(prediction, target)

        options: dict[str, Any] = {
            "model": model,
            "optimizer": optimizer,
            "schedule": schedule,
            "loss_fn": loss,
            "batches": Batches(X, Y, batch_size=4),
            "validation": Batches(X, Y, shuffle=False, batch_size=5),
            "epochs": 3,
            "log_steps": 3,
            "progress": False,
        }
        return Run(**(options | changed))

    return made


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.4), nn.Linear(8, 1))


@pytest.fixture
def outcome() -> Callable[[Run, Report], dict[str, Any]]:
    """`outcome(run, report)` returns what a resumed run must have in common with a whole one."""

    def found(run: Run, report: Report) -> dict[str, Any]:
        assert report.folder is not None
        left = ["model.safetensors"]
        if run.validation is not None:
            left += ["best.safetensors", "evaluation.json"]
        _, words, place, *_ = np.random.get_state()
        return {
            "model": run.model.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "rows": timeless(read_metrics(report.folder / "metrics.jsonl")),
            "csv": without_seconds(report.folder / "metrics.csv"),
            "history": timeless(report.history),
            "best": timeless([report.best]),
            "files": {name: (report.folder / name).read_bytes() for name in left},
            "random": [torch.get_rng_state(), random.getstate(), words.tolist(), place],
        }

    return found


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def without_seconds(path: Path) -> list[list[str]]:
    rows = [line.split(",") for line in path.read_text().splitlines()]
    place = rows[0].index("seconds")
    return [row[:place] + row[place + 1 :] for row in rows]


@pytest.fixture
def same() -> Callable[[Any, Any], None]:
    """`same(a, b)` asserts that two trees are equal, tensors bit for bit and NaN to NaN."""
    return equal


def equal(a: Any, b: Any) -> None:
    if isinstance(a, Tensor):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            equal(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            equal(one, other)
    elif isinstance(a, float) and math.isnan(a):
        assert math.isnan(b)
    else:
        assert a == b
