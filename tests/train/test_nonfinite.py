"""A loss that is not finite: where it was, what made it, and what stays as it was."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from steepest.data import Batches
from steepest.train import RunError, read_metrics, record, train
from steepest.train.files.checkpoints import Checkpoints
from steepest.train.measured.metrics import Mean


class Log(nn.Module):
    """Not finite for what is not above 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log()


class Two(nn.Module):
    """A model of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, a: Tensor, b: dict[str, Tensor]) -> Tensor:
        return self.a(a) + self.b(b["rows"])


def net(*modules: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), *modules, nn.Linear(4, 1))


class Bare(nn.Linear):
    """A model without parts."""

    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x) * 0 + x[:, :1]).log()


class Breaking(torch.optim.SGD):
    """An optimizer whose update is not finite."""

    def step(self, closure: Any = None) -> None:
        for p in self.param_groups[0]["params"]:
            p.data.fill_(math.nan)


class Idle(torch.optim.SGD):
    """An optimizer that updates nothing."""

    def step(self, closure: Any = None) -> None:
        pass


def large() -> nn.Module:
    model = net()
    with torch.no_grad():
        model[0].weight.fill_(10.0)
    return model


def frozen() -> nn.Module:
    model = net()
    model[0].requires_grad_(False)
    with torch.no_grad():
        model[0].bias[2] = math.inf
    return model


def spoilt(what: Tensor, *rows: int, value: float = math.nan) -> Tensor:
    what[list(rows)] = value
    return what


def ordered(x: Any, y: Any) -> Batches:
    return Batches(x, y, batch_size=4, shuffle=False)


CASES: dict[str, tuple[Callable[[Tensor, Tensor], dict[str, Any]], int, str]] = {
    # what is changed, the step, what is said of the place and of the culprit
    "an input": (
        lambda x, y: {"batches": ordered(spoilt(x, 5, 6), y)},
        2,
        "rows 4, 5, 6, 7 of the data), where the batch's input 0 is not finite in rows 5, 6 of the "
        "data",
    ),
    "an input that is infinite": (
        lambda x, y: {"batches": ordered(spoilt(x, 13, value=-math.inf), y)},
        4,
        "rows 12, 13 of the data), where the batch's input 0 is not finite in row 13 of the data",
    ),
    "a target": (
        lambda x, y: {"batches": ordered(x, spoilt(y, 0, value=math.inf))},
        1,
        "where the batch's target is not finite in row 0 of the data",
    ),
    "a shuffled row": (
        lambda x, y: {"batches": Batches(spoilt(x, 5), y, batch_size=14)},
        1,
        "rows {order}, ... of the data), where the batch's input 0 is not finite in row 5 of the "
        "data",
    ),
    "a loader's row": (
        lambda x, y: {"batches": DataLoader(TensorDataset(spoilt(x, 5), y), batch_size=4)},
        2,
        "4 rows), where the batch's input 0 is not finite in its row 1",
    ),
    "many rows": (
        lambda x, y: {"batches": [(spoilt(x, *range(14)), y)]},
        1,
        "14 rows), where the batch's input 0 is not finite in its rows 0, 1, 2, 3, 4, ...",
    ),
    "an input of several": (
        lambda x, y: {"batches": [(x, {"rows": spoilt(x.clone(), 1)}, y)], "model": Two},
        1,
        "where the batch's input 1 is not finite",
    ),
    "a parameter": (
        lambda x, y: {
            "batches": ordered(x, y),
            "optimizer": lambda p: Breaking(p, lr=0.1),
        },
        2,
        "where the parameter 0.weight is not finite: an update before has made it so",
    ),
    "a frozen parameter": (
        lambda x, y: {"batches": ordered(x, y), "model": frozen},
        1,
        "where the parameter 0.bias is not finite",
    ),
    "a module": (
        lambda x, y: {"batches": ordered(x, y), "model": lambda: net(nn.ReLU(), Log())},
        1,
        "where the first output that is not finite is that of 3 (Log) in row",
    ),
    "the model itself": (
        lambda x, y: {
            "batches": ordered(spoilt(x.abs(), 2, value=-1), y),
            "model": lambda: Bare(3, 1),
        },
        1,
        "where the first output that is not finite is that of the model (Bare) in row 2 of the",
    ),
    "the loss function": (
        lambda x, y: {"batches": ordered(x, y), "loss_fn": lambda p, y: (p - p).mean().log()},
        1,
        "where every module's output is finite when it is run again: it is the loss function's own",
    ),
    "16 bits": (
        lambda x, y: {"batches": ordered(x * 1e4, y), "precision": "float16", "model": large},
        1,
        "where the first output that is not finite is that of 0 (Linear) in row",
    ),
}


@pytest.mark.parametrize(("changed", "step", "message"), CASES.values(), ids=CASES)
def test_what_is_said(
    make: Any, data: tuple[Tensor, Tensor], changed: Any, step: int, message: str
):
    run = make(**({"model": net} | changed(*data)))
    if isinstance(run.batches, Batches):
        first = ", ".join(map(str, run.batches.order(0)[:5].tolist()))
        message = message.replace("{order}", first)
    with pytest.raises(RunError) as caught:
        train(run)
    said = str(caught.value)
    assert re.match(
        rf"The loss is a finite number at every step: it was (nan|-?inf) at step {step} "
        r"\(epoch 1, lr [\w.+-]+, ",
        said,
    )
    assert message in said
    todo = "lower lr (steepest.find_lr(run) finds one), clip the gradients with clip_norm, or look "
    rows = "correct or remove those rows"
    assert said.endswith(rows if "the batch's" in message else f"{todo}for NaN in the data")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_parameter_has_seen_it_and_the_last_checkpoint_is_whole(
    make: Any, same: Any, data: tuple[Tensor, Tensor], tmp_path: Path, value: float
):
    """Only what a module keeps of a batch by itself, as BatchNorm does, has."""
    x, y = data
    spoilt(x, 9, value=value)
    how = {"batches": ordered(x, y), "model": net, "log_steps": 1}
    run = make(folder=tmp_path / "a", checkpoint_seconds=0.0, **how)
    with pytest.raises(RunError, match="in row 9 of the data"):
        train(run)
    twin = make(folder=tmp_path / "b", steps=2, validation=None, **how)
    train(twin)
    named = zip(run.model.named_parameters(), twin.model.parameters(), strict=True)
    assert all(torch.equal(p, q) for (_, p), q in named)
    kept = Checkpoints(tmp_path / "a" / "checkpoints").newest().state
    assert kept["kept"]["place"] == [0, 2, 2, 8]
    same(kept["model"], twin.model.state_dict())
    told = json.loads((tmp_path / "a" / "run.json").read_text())
    assert told["status"] == "failed"
    assert "in row 9 of the data" in told["error"]
    steps = [row["step"] for row in read_metrics(tmp_path / "a" / "metrics.jsonl")]
    assert steps == [1, 2]
    good = make(folder=tmp_path / "a", resume=True, **(how | {"batches": ordered(x, y)}))
    good.batches.tensors[0][9] = 0.5  # the data, mended
    with pytest.raises(Exception, match="checksum"):  # which is other data than the run had
        train(good)


def test_looking_for_it_changes_no_buffer_and_leaves_no_hook():
    from steepest.train.measured.nonfinite import culprit

    model = net(Log())
    before = {name: v.clone() for name, v in model.state_dict().items()}
    said = culprit(model, [torch.randn(4, 3)], torch.zeros(4, 1), [7, 8, 9, 10])
    assert said.startswith("the first output that is not finite is that of 2 (Log) in rows ")
    assert said.endswith("of the data")
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("options", [None, {}, {"options": {"lr": 1}}, {"recipe": "line"}], ids=str)
def test_options_of_any_kind_are_no_other_error(make: Any, options: Any):
    with pytest.raises(RunError, match="The loss is a finite number at every step: it was inf"):
        train(make(loss_fn=lambda p, y: p.mean() * 0 + math.inf, options=options))


class Late(Mean):
    """A mean of numbers on an accelerator, which are read late."""

    def add(self, value: Tensor | float, rows: int) -> None:
        assert isinstance(value, Tensor)
        self.rows += rows
        self._pending.append((value.detach(), rows))


def test_on_an_accelerator_it_is_seen_before_anything_is_kept(
    make: Any, data: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """There the parameters have seen it by then: no checkpoint and no model is written of them."""
    monkeypatch.setattr(record, "Mean", Late)
    x, y = data
    spoilt(y, 9)
    how = {"batches": ordered(x, y), "model": net, "log_steps": 100, "validation": None}
    for name, more in {
        "at the end": {},
        "by the clock": {"checkpoint_seconds": 1e-9},
        "by epochs": {"checkpoint_epochs": 1, "epochs": 3},
    }.items():
        folder = tmp_path / name
        run = make(folder=folder, **(how | {"epochs": 1} | more))
        said = r"it was nan by step \d+ .*, by when the parameter 0.weight is not finite; lower lr "
        with pytest.raises(RunError, match=said):
            train(run)
        for path in Checkpoints(folder / "checkpoints").paths():
            assert path.name <= "step-0000000002.safetensors"
        assert not (folder / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("where", "optimizer", "message"),
    [
        ("target", torch.optim.SGD, "the parameter 0.weight is not finite; lower lr"),
        ("input", Idle, "the buffer 1.running_mean is not finite; lower lr"),
        ("target", Idle, "every parameter is finite; lower lr"),
    ],
)
def test_on_an_accelerator_what_is_not_finite_by_then_is_said(
    make: Any,
    data: tuple[Tensor, Tensor],
    monkeypatch: Any,
    where: str,
    optimizer: Any,
    message: str,
):
    """The batch is long gone there; a mask among the buffers may hold infinity."""
    monkeypatch.setattr(record, "Mean", Late)

    def masked() -> nn.Module:
        model = net()
        model.register_buffer("mask", torch.tensor([0.0, -math.inf]))
        return model

    x, y = data
    spoilt(x if where == "input" else y, 0)
    how = {"batches": ordered(x, y), "optimizer": lambda p: optimizer(p, lr=0.1)}
    with pytest.raises(RunError, match=f"it was nan by step .*, by when {message}"):
        train(make(**how, model=masked, validation=None))
