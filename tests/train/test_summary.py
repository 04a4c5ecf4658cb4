"""What a run says of itself: at its start, while it goes, and in run.json and metrics.csv."""

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from steepest import optim, schedules
from steepest.data import Batches
from steepest.errors import RecipeError
from steepest.train import RunError, Stopped, read_metrics, train
from steepest.train.device import choose_threads
from steepest.train.shown.progress import Bar, Lines, Place


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 1))


def decaying(p: Any) -> torch.optim.Optimizer:
    p = list(p)
    matrices, vectors = [q for q in p if q.ndim > 1], [q for q in p if q.ndim < 2]
    return optim.AdamW([{"params": vectors, "weight_decay": 0.0}, {"params": matrices}], lr=3e-3)


def mixed(p: Any) -> torch.optim.Optimizer:
    p = list(p)
    matrices, vectors = [q for q in p if q.ndim > 1], [q for q in p if q.ndim < 2]
    groups = [{"params": matrices, "optimizer": optim.Muon, "lr": 0.02}, {"params": vectors}]
    return optim.Mixed(groups, clip_norm=1.0)


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter([(torch.zeros(3), torch.zeros(1))] * 8)


def half_frozen() -> nn.Module:
    model = mlp()
    model[0].requires_grad_(False)
    return model


def deep() -> nn.Module:
    blocks = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(4)]
    return nn.Sequential(nn.Linear(3, 8), nn.Sequential(*blocks), nn.Linear(8, 1))


OPENINGS: dict[str, tuple[dict[str, Any], str]] = {
    "small": (
        {"model": lambda: nn.Linear(3, 1), "optimizer": lambda p: optim.SGD(p, lr=0.1)},
        """\
data       14 rows, 4 batches of 4, 14 validation rows
model      Linear, 4 parameters
optimizer  SGD, 4 parameters in 2 tensors: lr 0.1
schedule   constant
device     cpu, 1 thread (for so small a model more are slower), float32
""",
    ),
    "modules and options": (
        {
            "model": mlp,
            "optimizer": lambda p: optim.AdamW(
                p, lr=1e-3, betas=(0.8, 0.99), weight_decay=0.1, clip_norm=1.0, average="ema"
            ),
            "schedule": lambda o: schedules.cosine(total=12, warmup=2),
            "precision": "bfloat16",
            "threads": 2,
            "validation": None,
        },
        """\
data       14 rows, 4 batches of 4
model      Sequential, 449 parameters
             0  Linear     (64, 3) (64,)  256
             1  LayerNorm  (64,) (64,)    128
             3  Linear     (1, 64) (1,)    65
optimizer  AdamW, 449 parameters in 6 tensors: lr 0.001, betas (0.8, 0.99),
             weight_decay 0.1, clip_norm 1, average ema, average_decay 0.999
schedule   cosine(start=1.0, total=12, warmup=2, end=0.0)
device     cpu, 2 threads, bfloat16
""",
    ),
    "groups": (
        {
            "model": mlp,
            "optimizer": decaying,
            "schedule": lambda o: torch.optim.lr_scheduler.StepLR(o, 30),
            "threads": 1,
        },
        """\
data       14 rows, 4 batches of 4, 14 validation rows
model      Sequential, 449 parameters
             0  Linear     (64, 3) (64,)  256
             1  LayerNorm  (64,) (64,)    128
             3  Linear     (1, 64) (1,)    65
optimizer  AdamW
             193 parameters in 4 tensors: lr 0.003, weight_decay 0
             256 parameters in 2 tensors: lr 0.003
schedule   StepLR, step_size 30, gamma 0.1
device     cpu, 1 thread, float32
""",
    ),
    "mixed": (
        {"model": mlp, "optimizer": mixed, "threads": 1},
        """\
data       14 rows, 4 batches of 4, 14 validation rows
model      Sequential, 449 parameters
             0  Linear     (64, 3) (64,)  256
             1  LayerNorm  (64,) (64,)    128
             3  Linear     (1, 64) (1,)    65
optimizer  Mixed, clip_norm 1
             Muon, 256 parameters in 2 tensors: lr 0.02
             AdamW, 193 parameters in 4 tensors: lr 0.001
schedule   constant
device     cpu, 1 thread, float32
""",
    ),
    "a stream, some frozen": (
        {
            "model": half_frozen,
            "optimizer": lambda p: torch.optim.Adam(
                [q for q in p if q.requires_grad], lr=torch.tensor(0.25), maximize=True
            ),
            "batches": DataLoader(Stream(), batch_size=4),
            "schedule": lambda o: halved,
            "threads": 1,
        },
        """\
data       14 validation rows
model      Sequential, 449 parameters, 193 of them trained
             0  Linear     (64, 3) (64,)  256
             1  LayerNorm  (64,) (64,)    128
             3  Linear     (1, 64) (1,)    65
optimizer  Adam, 193 parameters in 4 tensors: lr 0.25, maximize True
schedule   halved
device     cpu, 1 thread, float32
""",
    ),
    "the optimizer's own schedule": (
        {
            "model": lambda: nn.Linear(3, 1),
            "optimizer": lambda p: optim.Adam(p, lr=schedules.linear(0.25, total=12)),
            "batches": [(torch.zeros(2, 3), torch.zeros(2, 1))],
            "validation": None,
            "threads": 1,
        },
        """\
data       1 batch
model      Linear, 4 parameters
optimizer  Adam, 4 parameters in 2 tensors: lr 0.25
schedule   lr by linear(start=0.25, total=12, warmup=0, end=0.0)
device     cpu, 1 thread, float32
""",
    ),
}


def halved(step: int) -> float:
    return 0.5**step


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("changed", "text"), OPENINGS.values(), ids=OPENINGS)
def test_the_opening(
    make: Any,
    two_threads: None,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
    changed: Any,
    text: str,
):
    monkeypatch.setenv("COLUMNS", "80")
    loss_fn = lambda p, y: p.mean() * 0 + sum(q.sum() for q in run.model.parameters()) * 0  # noqa: E731
    run = make(progress=True, epochs=1, loss_fn=loss_fn, **changed)
    train(run)
    said = capsys.readouterr().err
    assert said[: said.index("epoch ")] == text


def test_a_deep_model_fits_into_eighty_characters(
    make: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "80")
    x, y = torch.zeros(2, 5, 3), torch.zeros(2, 5, 1)
    train(make(model=deep, batches=[(x, y)], validation=None, epochs=1, progress=True))
    lines = capsys.readouterr().err.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[3].split() == ["1.0.self_attn", "MultiheadAttention", "(24,", "8)", "(24,)", "216"]
    assert lines[22].split() == ["...", "6", "more", "393"]


def test_a_narrow_terminal_is_no_reason_to_fail(
    make: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "5")
    train(make(model=mlp, progress=True, epochs=1))
    assert "optimizer  Adam, 449 parameters in 6 tensors" in capsys.readouterr().err


# ---- run.json and metrics.csv --------------------------------------------------------------------


def told(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def test_run_json(make: Any, tmp_path: Path):
    seen: list[dict[str, Any]] = []
    how = {"model": mlp, "optimizer": decaying, "name": "mine", "threads": 1}
    run = make(folder=tmp_path, metrics={"l1": Seen(seen, tmp_path)}, **how)
    report = train(run)
    found = told(tmp_path)
    assert seen[0]["status"] == "running"
    assert seen[0]["best"] is seen[0]["final"] is None
    started, seconds = found.pop("started"), found.pop("seconds")
    assert started == seen[0]["started"]
    assert started[4] == "-"
    assert seconds == pytest.approx(report.seconds, abs=0.5)
    best = {"epoch": report.best["epoch"], "step": report.best["step"]}
    assert found == {
        "name": "mine",
        "status": "finished",
        "ended": "epochs",
        "device": "cpu",
        "threads": 1,
        "precision": "float32",
        "data": {"rows": 14, "batches": 4, "batch_size": 4, "validation_rows": 14},
        "model": [
            {
                "name": "0",
                "type": "Linear",
                "shape": "weight (64, 3) bias (64,)",
                "parameters": 256,
            },
            {
                "name": "1",
                "type": "LayerNorm",
                "shape": "weight (64,) bias (64,)",
                "parameters": 128,
            },
            {"name": "3", "type": "Linear", "shape": "weight (1, 64) bias (1,)", "parameters": 65},
        ],
        "parameters": 449,
        "optimizer": {
            "name": "AdamW",
            "options": {},
            "groups": [_group(4, 193, 0.0), _group(2, 256, 0.01)],
        },
        "schedule": "constant",
        "monitor": {"name": "validation_loss", "mode": "min"},
        "best": best | {"value": report.best["validation_loss"]},
        "final": report.final,
    }


def _group(tensors: int, parameters: int, weight_decay: float) -> dict[str, Any]:
    options = {
        "lr": 0.003,
        "betas": "(0.9, 0.999)",
        "eps": 1e-8,
        "weight_decay": weight_decay,
        "amsgrad": False,
        "decoupled_weight_decay": True,
    }
    return {"tensors": tensors, "parameters": parameters, "options": options}


class Seen:
    """A metric that reads run.json while the run goes."""

    def __init__(self, seen: list[dict[str, Any]], folder: Path) -> None:
        self.seen, self.folder = seen, folder

    def __call__(self, prediction: Tensor, target: Tensor) -> float:
        self.seen.append(told(self.folder))
        return 1.0


class BrokenError(Exception):
    pass


def breaks(prediction: Tensor, target: Tensor) -> Tensor:
    raise BrokenError("not today")


@pytest.mark.parametrize(
    ("changed", "error", "status", "message"),
    [
        ({"stop": 6}, Stopped, "stopped", "stopped after step 6"),
        ({"loss_fn": breaks}, BrokenError, "failed", "not today"),
        ({"loss_fn": lambda p, y: p.mean() * math.nan}, RunError, "failed", "finite number"),
        ({"schedule": lambda o: lambda step: -1.0}, RecipeError, "failed", "multiplier of lr"),
    ],
    ids=["stopped", "an error", "not finite", "refused"],
)
def test_a_run_that_does_not_finish_says_so(
    make: Any, tmp_path: Path, changed: Any, error: type, status: str, message: str
):
    with pytest.raises(error):
        train(make(folder=tmp_path, **changed))
    found = told(tmp_path)
    assert (found["status"], message in found["error"]) == (status, True)
    assert found["final"] == (None if status == "failed" else found["final"])
    before = found["started"]
    schedule = {"schedule": lambda o: halved} if "schedule" in changed else {}
    train(make(folder=tmp_path, resume=True, **schedule))
    found = told(tmp_path)
    assert (found["status"], found["started"], "error" in found) == ("finished", before, False)


def test_the_csv_has_the_numbers_of_the_rows(make: Any, tmp_path: Path):
    metrics = {"l1": nn.L1Loss(), "nan": lambda p, y: math.nan}
    train(make(folder=tmp_path, metrics=metrics, validate_steps=5))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    with (tmp_path / "metrics.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        found = list(reader)
    assert reader.fieldnames == [
        "kind",
        "epoch",
        "step",
        "samples",
        "seconds",
        "loss",
        "lr",
        "gradient_norm",
        "validation_loss",
        "validation_l1",
        "validation_nan",
    ]
    assert len(found) == len(rows) == 10
    for line, row in zip(found, rows, strict=True):
        for name, text in line.items():
            value = row.get(name)
            assert text == ("" if value is None else str(value))


# ---- where it computes ---------------------------------------------------------------------------

SMALL, CONVOLVING = nn.Linear(100, 100), nn.Conv1d(1, 1, 3)


@pytest.mark.parametrize(
    ("given", "model", "batches", "threads"),
    [
        (None, SMALL, Batches(torch.zeros(64, 1), batch_size=32), 1),
        (None, SMALL, Batches(torch.zeros(512, 1), batch_size=256), 2),
        (None, SMALL, DataLoader(TensorDataset(torch.zeros(64, 1)), batch_size=32), 1),
        (None, SMALL, [1, 2], 2),
        (None, CONVOLVING, Batches(torch.zeros(64, 1), batch_size=32), 2),
        (3, SMALL, Batches(torch.zeros(64, 1), batch_size=32), 3),
        (1, CONVOLVING, [], 1),
    ],
    ids=["small", "large batch", "loader", "unknown", "convolution", "three", "one"],
)
def test_threads_are_chosen(
    two_threads: None, given: int | None, model: nn.Module, batches: Any, threads: int
):
    assert choose_threads(given, model, batches) == threads


def test_threads_and_determinism_hold_within_and_are_given_back(make: Any, two_threads: None):
    seen: list[tuple[int, bool]] = []

    def loss_fn(prediction: Tensor, target: Tensor) -> Tensor:
        seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
        return nn.functional.mse_loss(prediction, target)

    torch.use_deterministic_algorithms(False)
    for how, expected in (
        ({"threads": 3}, (3, False)),
        ({"deterministic": True}, (1, True)),
        ({"deterministic": True, "stop": 2}, (1, True)),
    ):
        seen.clear()
        try:
            train(make(loss_fn=loss_fn, **how))
        except Stopped:
            assert "stop" in how
        assert set(seen) == {expected}
        assert torch.get_num_threads() == 2
        assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_that_may_give_other_numbers_is_refused(make: Any):
    """By torch, whose error names the operation."""

    def loss_fn(prediction: Tensor, target: Tensor) -> Tensor:
        places = torch.zeros(len(target), dtype=torch.int64)
        return prediction.mean() + torch.zeros(9).put(places, target[:, 0].float()).sum() * 0

    train(make(loss_fn=loss_fn))
    with pytest.raises(RuntimeError, match=r"put_ .*does not have a deterministic implementation"):
        train(make(loss_fn=loss_fn, deterministic=True))
    assert not torch.are_deterministic_algorithms_enabled()


def test_two_trainings_at_once_do_not_share_a_folder(make: Any, tmp_path: Path):
    """A second one is refused, resumed or new, and the first goes on."""
    refused: list[str] = []

    def loss_fn(prediction: Tensor, target: Tensor) -> Tensor:
        if len(refused) < 2:
            refused.append("")
            with pytest.raises(RecipeError) as caught:
                train(make(folder=tmp_path, resume=len(refused) > 1))
            refused[-1] = str(caught.value)
        return nn.functional.mse_loss(prediction, target)

    train(make(folder=tmp_path, loss_fn=loss_fn))
    assert "choose another folder" in refused[0]
    assert "A folder holds one run at a time" in refused[1]
    assert told(tmp_path)["status"] == "finished"


# ---- while it goes -------------------------------------------------------------------------------


def lines_of(rows: list[tuple[Place, dict[str, Any]]]) -> list[str]:
    said: list[str] = []
    shown = Lines(rows[0][0], said.append)
    for place, row in rows:
        shown.row(place, row)
    shown.close()
    return said


def test_a_line_tells_every_number_of_a_validation():
    row = {"kind": "validation", "epoch": 2, "validation_loss": 0.25, "validation_mse": 12.0}
    row |= {"validation_r2": None, "validation_top_5": 0.91239}
    (line,) = lines_of([(Place(epoch=1, step=9, epochs=2, steps=9), row)])
    assert line == "epoch 2/2  step 9  validation loss 0.25, mse 12, r2 -, top_5 0.9124"


@pytest.mark.parametrize("epochs", [1, 3, 1000, None])
def test_validations_by_updates_do_not_flood_a_log(epochs: int | None):
    place = Place(epochs=epochs, steps=500)
    rows = []
    for step in range(1, 501):
        at = Place(epochs=epochs, steps=500, step=step)
        rows.append((at, {"kind": "validation", "epoch": 1, "validation_loss": 1.0}))
    said = lines_of([(place, rows[0][1]), *rows])
    assert len(said) == 1
    assert said[0].startswith(f"epoch 1{'' if epochs is None else f'/{epochs}'}  step 500  ")


def test_the_last_line_is_written_where_patience_ends_a_run(make: Any, capsys: Any):
    how = {"optimizer": lambda p: optim.SGD(p, lr=0.0), "model": lambda: nn.Linear(3, 1)}
    report = train(make(epochs=1000, patience=6, progress=True, **how))
    assert report.final["epoch"] == 7
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert [line.split("  ")[0] for line in lines] == ["epoch 7/1000"]


def test_a_bar_of_eighty_characters_breaks_between_its_figures(monkeypatch: pytest.MonkeyPatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=80, legacy_windows=False)
    place = Place(epochs=5, batches=500, samples=0)
    bar = Bar("houses", place, console)
    row = {"kind": "validation", "epoch": 1, "validation_loss": 0.25, "validation_mse": 1234.5678}
    bar.row(place, row | {"validation_r2": 0.5})
    place.epoch, place.batch = 3, 100
    bar.draw(place, 0.12345678, 7.19e-05)
    bar.close()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    shown = [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()][-2:]
    assert shown[0].startswith("houses ")
    assert shown[0].endswith(" epoch 4/5  loss 0.1235  validation loss 0.25, mse 1,235")
    assert re.fullmatch(r" +lr 7.19e-05  0:00 left", shown[1])
    assert max(map(len, shown)) <= 80
