"""The range test finds an lr that trains well, and leaves everything bit for bit as it was."""

import math
import random
import re
import signal
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import steepest
from steepest import optim, schedules
from steepest.data import Batches
from steepest.errors import RecipeError
from steepest.find_lr import FoundLR, find_lr
from steepest.find_lr.found import Curve
from steepest.recipes import digits, line, table
from steepest.train import Run, Stopped, train

X = torch.randn(120, 4, generator=torch.Generator().manual_seed(1))
Y = X.sum(1, keepdim=True)
EXAMPLES = Path(__file__).parents[1] / "examples"


class Model(nn.Module):
    """A model with buffers, chance and attributes of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.BatchNorm1d(4)
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.2), nn.ReLU(), nn.Linear(5, 1))
        self.register_buffer("seen", torch.zeros(1), persistent=False)
        self.calls, self.sizes = 0, [0]
        self.layers[1].eval()  # a mode that differs from the others'

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.sizes.append(len(x))
        self.seen = self.seen + len(x)
        return self.layers(self.norm(x)) + 0 * torch.rand(1) + 0 * random.random()


def run_of(make: Callable[[Model], torch.optim.Optimizer], **changed: Any) -> Run:
    model = Model()
    options: dict[str, Any] = {
        "model": model,
        "optimizer": make(model),
        "loss_fn": nn.MSELoss(),
        "batches": Batches(X, Y, batch_size=32),
        "epochs": 2,
        "progress": False,
    }
    return Run(**(options | changed))


def frozen(value: Any) -> Any:
    """Return a copy that compares bit for bit."""
    if isinstance(value, Tensor):
        return value.dtype, value.shape, value.detach().contiguous().view(-1).numpy().tobytes()
    if isinstance(value, dict):
        return [(id(k) if isinstance(k, Tensor) else k, frozen(v)) for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return [frozen(part) for part in value]
    return deepcopy(value)


def all_of(run: Run) -> dict[str, Any]:
    """Return everything of a run and around it that a test might touch."""
    model, optimizer = run.model, run.optimizer
    plain = {"calls": 0, "sizes": [0]} | {
        name: value for name, value in vars(model).items() if not name.startswith("_")
    }
    loader = getattr(run.batches, "generator", None)
    return {
        "parameters": [(n, id(p), p.data_ptr(), frozen(p)) for n, p in model.named_parameters()],
        "buffers": [(n, id(b), frozen(b)) for n, b in model.named_buffers()],
        "gradients": [(id(p.grad), frozen(p.grad)) for p in model.parameters()],
        "attributes": (plain.keys(), frozen(plain["calls"]), frozen(plain["sizes"])),
        "modes": [m.training for m in model.modules()],
        "groups": [(id(g), id(g["lr"]), frozen(g)) for g in optimizer.param_groups],
        "state": frozen(dict(optimizer.state)),
        "optimizer": sorted(vars(optimizer)),
        "epochs": getattr(run.batches, "_next_epoch", None),
        "chance": (frozen(torch.get_rng_state()), str(np.random.get_state()), random.getstate()),
        "loader": frozen(loader.get_state()) if isinstance(loader, torch.Generator) else None,
        "threads": torch.get_num_threads(),
        "files": sorted(Path().rglob("*")),
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
    }


def groups(model: Model) -> list[dict[str, Any]]:
    return [{"params": model.norm.parameters(), "lr": 0.3}, {"params": model.layers.parameters()}]


OPTIMIZERS: dict[str, Callable[[Model], torch.optim.Optimizer]] = {
    "SGD": lambda m: optim.SGD(m.parameters(), lr=0.1, momentum=0.9),
    "AdamW": lambda m: optim.AdamW(groups(m), lr=0.1),
    "AdamW, scheduled": lambda m: optim.AdamW(
        m.parameters(), lr=schedules.cosine(0.1, total=50, warmup=4), average="ema", norms=True
    ),
    "AdamW, clipping": lambda m: optim.AdamW(m.parameters(), clip_norm=1.0, zero_grad=True),
    "Prodigy": lambda m: optim.Prodigy(m.parameters()),
    "schedule-free": lambda m: optim.ScheduleFreeAdamW(m.parameters()),
    "torch SGD": lambda m: torch.optim.SGD(groups(m), lr=0.1, momentum=0.9),
    "torch AdamW": lambda m: torch.optim.AdamW(m.parameters(), lr=torch.tensor(0.1)),
    "torch, scheduler": lambda m: (
        torch.optim.lr_scheduler.StepLR(torch.optim.Adam(m.parameters()), 1).optimizer
    ),
}

CHANGED: dict[str, Callable[[], dict[str, Any]]] = {
    "a loader with chance of its own": lambda: {
        "batches": DataLoader(
            TensorDataset(X, Y), 32, shuffle=True, generator=torch.Generator().manual_seed(3)
        )
    },
    "a loader with the global chance": lambda: {
        "batches": DataLoader(TensorDataset(X, Y), 32, shuffle=True)
    },
    "a list": lambda: {"batches": [(X, Y), (X[:50], Y[:50])]},
    "windows": lambda: {"accumulate": 3, "clip_norm": 1.0},
    "bfloat16": lambda: {"precision": "bfloat16"},
    "no seed": lambda: {"seed": None, "threads": 1},
    "a scheduler": lambda: {"schedule": schedules.cosine(total=8)},
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    yield
    torch.set_rng_state(before[0])
    random.setstate(before[1])
    np.random.set_state(before[2])


def trained_before(run: Run) -> Run:
    """Make states, gradients and buffers by two updates."""
    model, optimizer = run.model, run.optimizer
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(X), Y).backward()
        optimizer.step()
    return run


@pytest.mark.parametrize("before", [False, True], ids=["fresh", "trained"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_everything_is_as_it_was_whatever_the_optimizer(make: Any, before: bool):
    run = run_of(make)
    if before:
        trained_before(run)
    kept = all_of(run)
    found = find_lr(run, steps=20)
    assert len(found.lrs) > 10
    assert all_of(run) == kept


@pytest.mark.parametrize("changed", CHANGED.values(), ids=CHANGED)
def test_everything_is_as_it_was_whatever_the_run(changed: Any):
    run = trained_before(run_of(OPTIMIZERS["AdamW"], **changed()))
    kept = all_of(run)
    assert len(find_lr(run, steps=20).lrs) > 10
    assert all_of(run) == kept


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_after_a_test_is_training_without_one(make: Any):
    weights = []
    for test in (False, True):
        run = trained_before(run_of(make))
        if test:
            find_lr(run, steps=20)
        train(run)
        weights.append([frozen(v) for v in run.model.state_dict().values()])
    assert weights[0] == weights[1]


def test_a_loss_that_looks_at_the_parameters_leaves_them():
    run = run_of(OPTIMIZERS["SGD"])
    weight = run.model.layers[0].weight
    penalised = replace(
        run, loss_fn=lambda p, y: nn.functional.mse_loss(p, y) + weight.square().sum()
    )
    kept = all_of(penalised)
    assert find_lr(penalised, steps=20).losses != find_lr(run, steps=20).losses
    assert all_of(penalised) == kept


def test_updates_in_the_backward_pass_are_tested_and_left():
    losses = []
    for in_backward in (False, True):
        run = run_of(lambda m: optim.AdamW(m.parameters(), lr=0.1))
        if in_backward:
            run.optimizer.step_in_backward(run.model)  # type: ignore[attr-defined]
        trained_before(run)
        kept = all_of(run)
        losses.append(find_lr(run, steps=20).losses)
        assert all_of(run) == kept
        trained_before(run)
        losses.append([frozen(p) for p in run.model.parameters()])
    assert losses[0] == losses[2]
    assert losses[1] == losses[3]


class Counting:
    """A source and a loss that count their own calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __iter__(self) -> Iterator[Any]:
        self.calls += 1
        return iter([(X, Y)])

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        return nn.functional.mse_loss(prediction, target)


def test_batches_and_losses_that_count_are_set_back():
    batches, loss_fn = Counting(), Counting()
    find_lr(run_of(OPTIMIZERS["SGD"], batches=batches, loss_fn=loss_fn), steps=20)
    assert (batches.calls, loss_fn.calls) == (0, 0)


def test_gradients_outside_of_the_optimizer_stay():
    run = run_of(lambda m: optim.SGD(m.layers.parameters(), lr=0.1))
    trained_before(run)
    weight = run.model.norm.weight
    kept = id(weight.grad), frozen(weight.grad)
    find_lr(run, steps=20)
    assert (id(weight.grad), frozen(weight.grad)) == kept


def test_half_precision_clips_what_is_not_scaled():
    run = replace(line.run(rows=1000), progress=False, clip_norm=1.0)
    losses = [
        find_lr(replace(run, precision=precision), start=1e-3, end=1.0, steps=40).losses
        for precision in ("float32", "float16")
    ]
    assert min(losses[0]) < 0.1 * losses[0][0]
    assert losses[0] == pytest.approx(losses[1], rel=0.1, abs=0.1)


def test_it_computes_as_the_run_would():
    seen: list[tuple[int, bool]] = []

    def loss_fn(prediction: Tensor, target: Tensor) -> Tensor:
        seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
        return nn.functional.mse_loss(prediction, target)

    find_lr(run_of(OPTIMIZERS["SGD"], loss_fn=loss_fn, threads=2, deterministic=True), steps=20)
    assert set(seen) == {(2, True)}


class BangError(Exception):
    pass


def raising(what: Callable[[], object]) -> Run:
    run = trained_before(run_of(OPTIMIZERS["AdamW, scheduled"]))
    count = iter(range(100))

    def loss_fn(prediction: Tensor, target: Tensor) -> Tensor:
        if next(count) == 7:
            what()
        return nn.functional.mse_loss(prediction, target)

    return replace(run, loss_fn=loss_fn)


def bang() -> None:
    raise BangError


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("what", "error"),
    [
        (bang, BangError),
        (interrupt, KeyboardInterrupt),
        (lambda: signal.raise_signal(signal.SIGINT), Stopped),
        (lambda: signal.raise_signal(signal.SIGTERM), Stopped),
    ],
    ids=["error", "KeyboardInterrupt", "Ctrl-C", "SIGTERM"],
)
def test_a_test_that_ends_early_leaves_everything(what: Any, error: type[BaseException]):
    run = raising(what)
    kept = all_of(run)
    with pytest.raises(error):
        find_lr(run, steps=20)
    assert all_of(run) == kept


def test_the_same_test_finds_the_same():
    first = find_lr(run_of(OPTIMIZERS["SGD"]), steps=30)
    assert first == find_lr(run_of(OPTIMIZERS["SGD"]), steps=30)
    run = run_of(OPTIMIZERS["SGD"])
    assert (first, first) == (find_lr(run, steps=30), steepest.find_lr(run, steps=30))


def watched(run: Run) -> tuple[FoundLR, list[list[float]]]:
    seen: list[list[float]] = []
    run.optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.append([float(g["lr"]) for g in optimizer.param_groups])
    )
    return find_lr(run, start=1e-4, end=1.0, steps=25), seen


@pytest.mark.parametrize("name", ["AdamW", "torch SGD"])
def test_groups_rise_in_proportion(name: str):
    found, seen = watched(run_of(OPTIMIZERS[name]))
    first, second = zip(*seen, strict=True)
    assert first == pytest.approx(found.lrs[: len(first)])
    assert [b / a for a, b in zip(first, second, strict=True)] == pytest.approx([1 / 3] * len(seen))
    growth = [b / a for a, b in pairwise(first)]
    assert growth == pytest.approx([10 ** (4 / 24)] * len(growth))


@pytest.mark.parametrize("lr", [0.1, 0.0, torch.tensor(0.1)], ids=str)
def test_the_test_sets_lr_itself(lr: Any):
    found, seen = watched(run_of(lambda m: torch.optim.Adam(m.parameters(), lr=lr)))
    assert [row[0] for row in seen] == pytest.approx(found.lrs[: len(seen)])


@pytest.mark.parametrize("name", ["AdamW, scheduled", "torch, scheduler"])
def test_schedules_are_set_aside(name: str):
    found, seen = watched(run_of(OPTIMIZERS[name], schedule=schedules.linear(total=2)))
    assert [row[0] for row in seen] == pytest.approx(found.lrs[: len(seen)])


def test_a_group_that_is_frozen_stays():
    parts = lambda m: [  # noqa: E731
        {"params": m.norm.parameters(), "lr": 0.0},
        {"params": m.layers.parameters()},
    ]
    found, seen = watched(run_of(lambda m: torch.optim.SGD(parts(m), lr=0.1)))
    assert {row[0] for row in seen} == {0.0}
    assert [row[1] for row in seen] == pytest.approx(found.lrs[: len(seen)])


def test_the_losses_are_those_of_the_loop_by_hand():
    run = run_of(lambda m: torch.optim.SGD(m.parameters()), accumulate=2, clip_norm=0.5)
    found = find_lr(run, start=1e-3, end=0.1, steps=20)
    model, losses = run.model, []
    optimizer = torch.optim.SGD(model.parameters())
    torch.manual_seed(0)
    random.seed(0)
    model.train()
    batches = [batch for n in range(10) for batch in run.batches.epoch(n)]  # type: ignore[attr-defined]
    for lr, pair in zip(found.lrs, zip(batches[::2], batches[1::2], strict=True), strict=False):
        rows = sum(len(y) for _, y in pair)
        optimizer.zero_grad()
        total = 0.0
        for x, y in pair:
            loss = nn.functional.mse_loss(model(x), y) * (len(y) / rows)
            loss.backward()
            total += loss.item()
        losses.append(total)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
    assert found.losses == pytest.approx(losses, rel=1e-4)


def test_small_batches_make_several_updates_with_each_lr():
    _, seen = watched(run_of(OPTIMIZERS["SGD"], batches=Batches(X, Y, batch_size=10)))
    assert [row[0] for row in seen[:2]] == [1e-4] * 2
    assert seen[2][0] > 1e-4


# ---- what it says ------------------------------------------------------------------------------


def curve_of(losses: list[float], connected: bool = True) -> FoundLR:
    curve = Curve(100)
    for k, loss in enumerate(losses):
        curve.add(1e-7 * 10 ** (8 * k / 99), loss, connected)
        if curve.rose:
            break
    return curve.found()


def noisy(losses: list[float], share: float = 0.1) -> list[float]:
    chance = random.Random(0)
    return [loss + share * chance.gauss(0, 1) for loss in losses]


FALLING = [1.0] * 50 + [1 - 0.02 * k for k in range(40)]

CURVES: dict[str, tuple[list[float], float | None, str]] = {
    "rose": (
        [*FALLING, *[2.0**k for k in range(10)]],
        0.15,
        "a tenth of lr 1.6, .* before it rose",
    ),
    "not finite at the end": ([*FALLING, math.nan], 0.155, "a tenth of lr 1.6, .* before it rose"),
    "fell to the end": (FALLING, 0.155, "still falling: a higher --end may show more"),
    "noisy": (noisy([*FALLING, *[2.0**k for k in range(10)]]), 0.15, "before it rose"),
    "negative": ([x - 5 for x in FALLING] + [20.0] * 10, 0.155, "lowest, -4.6 from -4, before"),
    "flat": ([0.7] * 100, None, "no lr up to 10 moved the loss, 0.7 at first, by more than"),
    "noise alone": (noisy([0.7] * 100), None, "are the targets constant or random"),
    "only rose": ([1.0] * 60 + [2.0**k for k in range(20)], None, "is the model at its optimum"),
    "at once": ([1.0, 1e9, math.inf], None, "diverged at once, by lr 1.2e-07: .* --start 1e-10"),
    "never finite": ([math.nan], None, "loss of the first batch is not finite"),
}


@pytest.mark.parametrize(("losses", "suggestion", "words"), CURVES.values(), ids=CURVES)
def test_what_a_curve_tells(losses: list[float], suggestion: float | None, words: str):
    found = curve_of(losses)
    assert found.suggestion == (None if suggestion is None else pytest.approx(suggestion, rel=0.2))
    assert re.search(words, found.reason), found.reason


def test_a_diverging_loss_ends_the_test():
    found = curve_of([*FALLING, *[4.0**k for k in range(100)]])
    assert 90 < len(found.lrs) < 97
    assert max(found.losses) < 1000


def test_the_mean_is_unbiased_and_exponential():
    found = curve_of([1.0, 3.0])
    assert found.smoothed == pytest.approx([1.0, (0.9 * 1 + 3) / 1.9])


def test_a_model_apart_from_its_loss_is_named():
    run = run_of(OPTIMIZERS["AdamW"])
    apart = replace(run, loss_fn=lambda p, y: ((0 * p + y) ** 2).mean())
    found = find_lr(apart, steps=20)
    assert found.suggestion is None
    assert "as no gradient reached a parameter: is the model connected to the loss" in found.reason


def test_nan_in_the_data_is_named_and_not_learned():
    found, seen = watched(run_of(OPTIMIZERS["SGD"], batches=[(X * math.nan, Y)]))
    assert (found.suggestion, found.lrs, seen) == (None, (), [])
    assert "look for NaN in the data" in found.reason


def test_a_model_at_its_optimum_gets_no_suggestion():
    run = line.run(rows=1000)
    with torch.no_grad():
        run.model.weight.fill_(3.0)  # type: ignore[operator, union-attr]
        run.model.bias.fill_(0.0)  # type: ignore[operator, union-attr]
    found = find_lr(replace(run, progress=False))
    assert found.suggestion is None
    assert "is the model at its optimum, or --start too high?" in found.reason


SUGGESTED: dict[str, tuple[Callable[..., Run], dict[str, Any], list[float]]] = {
    "line": (line.run, {}, [1e-3, 1e-2, 1e-1, 1.0]),
    "table": (
        table.run,
        {"data": EXAMPLES / "iris.csv", "target": "species", "hidden": (32,), "epochs": 20},
        [1e-4, 1e-3, 1e-2, 1e-1, 1.0],
    ),
    "digits": (digits.run, {"epochs": 2}, [1e-4, 1e-3, 1e-2, 1e-1]),
}


@pytest.mark.parametrize(("recipe", "options", "grid"), SUGGESTED.values(), ids=SUGGESTED)
def test_what_is_suggested_trains_about_as_well_as_the_best(
    recipe: Any, options: dict[str, Any], grid: list[float]
):
    def loss(lr: float) -> float:
        return train(replace(recipe(**options, lr=lr), progress=False)).final["loss"]

    found = find_lr(replace(recipe(**options), progress=False))
    assert found.suggestion is not None
    assert loss(found.suggestion) < 1.5 * min(map(loss, grid))


# ---- files and refusals ------------------------------------------------------------------------


def test_the_curve_is_drawn_and_written(tmp_path: Path):
    found = find_lr(run_of(OPTIMIZERS["SGD"]), steps=20)
    found.draw(tmp_path / "lr.png")
    found.write(tmp_path / "lr.csv")
    assert (tmp_path / "lr.png").read_bytes().startswith(b"\x89PNG")
    header, *lines = (tmp_path / "lr.csv").read_text().splitlines()
    assert header == "lr,loss,smoothed"
    rows = [tuple(map(float, line.split(","))) for line in lines]
    assert rows == list(zip(found.lrs, found.losses, found.smoothed, strict=True))


@pytest.mark.parametrize("losses", [[], [math.nan], [0.5] * 30, [-1.0, -2.0]], ids=len)
def test_any_curve_can_be_drawn(tmp_path: Path, losses: list[float]):
    curve_of(losses).draw(tmp_path / "lr.png")
    assert (tmp_path / "lr.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("changed", "bounds", "message"),
    [
        ({}, {"start": 0.0}, "start is a learning rate, a number above 0: got 0.0"),
        ({}, {"end": math.inf}, "end is a learning rate"),
        ({}, {"start": 1.0, "end": 0.1}, "start lies below end: got start=1 and end=0.1"),
        ({}, {"steps": 10}, "steps is a whole number of at least 20: got 10"),
        ({"batches": iter([(X, Y)]), "epochs": 1}, {}, "got an iterator, which can be read only"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_is_refused(changed: dict, bounds: dict[str, Any], message: str):
    with pytest.raises(RecipeError, match=message):
        find_lr(run_of(OPTIMIZERS["SGD"], **changed), **bounds)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_parameter_without_a_shape_is_refused():
    model = nn.Sequential(nn.LazyLinear(1))
    run = run_of(OPTIMIZERS["SGD"])
    lazy = replace(run, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(RecipeError, match=r"0\.weight gets its own at the first batch"):
        find_lr(lazy)


def test_an_optimizer_without_lr_is_refused():
    run = run_of(lambda m: torch.optim.SGD(m.parameters(), lr=0.1))
    del run.optimizer.param_groups[0]["lr"]
    with pytest.raises(RecipeError, match="SGD has one without"):
        find_lr(run)


def test_parameters_that_moved_to_other_memory_are_where_they_were():
    run = run_of(OPTIMIZERS["torch SGD"])

    def loss_fn(prediction: Tensor, target: Tensor) -> Tensor:
        loss = nn.functional.mse_loss(prediction, target)
        for p in run.model.parameters():
            p.data = p.data.clone()
        return loss

    moving = replace(run, loss_fn=loss_fn)
    kept = all_of(moving)
    find_lr(moving, steps=20)
    assert all_of(moving) == kept
