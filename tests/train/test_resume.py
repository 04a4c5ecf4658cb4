"""A run that is stopped anywhere and resumed is the run that was never stopped, bit for bit."""

import random
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from steepest import optim, schedules
from steepest.data import Batches
from steepest.errors import CheckpointError, RecipeError
from steepest.train import (
    Run,
    RunError,
    Stopped,
    train,
)
from steepest.train.files.checkpoints import Checkpoints

X = torch.randn(14, 3, generator=torch.Generator().manual_seed(1))
Y = X.sum(1, keepdim=True)
EPOCHS, BATCHES = 3, 4  # the last batch of an epoch has 2 rows


class Drawn(TensorDataset):
    """Rows with noise from every random state."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.rand(3) + 0.1 * random.random() + 0.1 * float(np.random.rand()), y


class Signs(torch.optim.Optimizer):
    """A user's own classic optimizer, with a state."""

    def __init__(self, params: Any, lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["sum"] = torch.zeros_like(p)
                state["sum"].mul_(0.9).add_(p.grad)
                p.sub_(state["sum"].sign(), alpha=group["lr"])


def loader(dataset: type = TensorDataset, **options: Any) -> DataLoader:
    return DataLoader(dataset(X, Y), batch_size=4, shuffle=True, **options)


SOURCES = {
    "Batches": lambda: Batches(X, Y, batch_size=4),
    "DataLoader": loader,
    "DataLoader with noise": lambda: loader(Drawn),
    "DataLoader with a generator": lambda: loader(generator=torch.Generator().manual_seed(5)),
    "list": lambda: list(zip(X.split(4), Y.split(4), strict=True)),
}
OPTIMIZERS = {
    "Adam": lambda p: optim.Adam(p, lr=0.05, clip_norm=1.0),
    "SGD": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "torch Adam": lambda p: torch.optim.Adam(p, lr=0.05, amsgrad=True),
    "a user's": Signs,
}
SCHEDULES = {
    "none": lambda o: None,
    "cosine": lambda o: schedules.cosine(total=EPOCHS * BATCHES),
    "StepLR": lambda o: optim.lr_scheduler.StepLR(o, 1, gamma=0.5),
    "plateau": lambda o: optim.lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=0.9),
}


@pytest.fixture
def make(make: Any) -> Any:
    """`make(folder, ...)` returns a small run, its parts by their names above."""

    def made(
        folder: Path,
        source: str = "Batches",
        optimizer: str = "Adam",
        schedule: str = "cosine",
        **changed: Any,
    ) -> Run:
        named = {"optimizer": OPTIMIZERS[optimizer], "schedule": SCHEDULES[schedule]}
        return make(**{"folder": folder, "batches": SOURCES[source](), **named, **changed})

    return made


def place_of(folder: Path) -> list[int]:
    return Checkpoints(folder / "checkpoints").newest().state["kept"]["place"]


@pytest.fixture
def stopped_and_resumed(make: Any, outcome: Any) -> Any:
    """`stopped_and_resumed(folder, stops, ...)` returns what a run leaves that is stopped there."""

    def found(folder: Path, stops: list[int], **how: Any) -> dict[str, Any]:
        done = 0
        for stop in stops:
            with pytest.raises(Stopped, match=f"stopped after step {stop}") as caught:
                train(make(folder, stop=stop - done, resume=done > 0, **how))
            assert (caught.value.step, caught.value.signal) == (stop, signal.SIGINT)
            done = stop
        run = make(folder, resume=True, **how)
        return outcome(run, train(run))

    return found


@pytest.fixture
def uninterrupted(make: Any, outcome: Any, tmp_path: Path) -> Any:
    """`uninterrupted(...)` returns what a run leaves that is never stopped."""

    def found(**how: Any) -> dict[str, Any]:
        run = make(tmp_path / "whole", **how)
        return outcome(run, train(run))

    return found


def test_at_every_step(uninterrupted: Any, stopped_and_resumed: Any, same: Any, tmp_path: Path):
    whole = uninterrupted()
    for stop in range(1, EPOCHS * BATCHES + 1):
        same(whole, stopped_and_resumed(tmp_path / str(stop), [stop]))


@pytest.mark.parametrize("source", SOURCES)
def test_with_every_source(
    uninterrupted: Any, stopped_and_resumed: Any, same: Any, tmp_path: Path, source: str
):
    whole = uninterrupted(source=source)
    for stops in ([2], [4], [5, 7, 8]):
        same(whole, stopped_and_resumed(tmp_path / str(stops), stops, source=source))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_with_every_optimizer_and_schedule(
    uninterrupted: Any,
    stopped_and_resumed: Any,
    same: Any,
    tmp_path: Path,
    optimizer: str,
    schedule: str,
):
    how = {"optimizer": optimizer, "schedule": schedule}
    same(uninterrupted(**how), stopped_and_resumed(tmp_path / "a", [3, 9], **how))


class Mine:
    """A user's own scheduler, which keeps a function."""

    def __init__(self, optimizer: torch.optim.Optimizer, multiplier: Any) -> None:
        self.optimizer, self.multiplier, self.epoch = optimizer, multiplier, 0

    def step(self) -> None:
        self.epoch += 1
        self.optimizer.param_groups[0]["lr"] = 0.05 * self.multiplier(self.epoch)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epoch = state_dict["epoch"]


lr_scheduler = optim.lr_scheduler
SCHEDULERS = {
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 2]),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=EPOCHS + 1),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 1, scale_fn=lambda x: 0.5),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.5, 1), lr_scheduler.OneCycleLR(o, 0.1, 9)], [1]
    ),
    "a user's": lambda o: Mine(o, lambda epoch: 0.9**epoch),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_with_schedulers_that_keep_more_than_numbers(
    uninterrupted: Any,
    stopped_and_resumed: Any,
    same: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
):
    monkeypatch.setitem(SCHEDULES, "this", SCHEDULERS[kind])
    whole = uninterrupted(schedule="this")
    same(whole, stopped_and_resumed(tmp_path / "a", [3, 4, 9], schedule="this"))


def test_without_validation_and_with_workers(
    uninterrupted: Any, stopped_and_resumed: Any, same: Any, tmp_path: Path
):
    how = {"batches": loader(Drawn, num_workers=1), "validation": None}
    same(uninterrupted(**how), stopped_and_resumed(tmp_path / "a", [6], **how))


def test_between_two_validation_batches(make: Any, outcome: Any, same: Any, tmp_path: Path):
    seen = 0

    def metric(prediction: Tensor, target: Tensor) -> Tensor:
        nonlocal seen
        seen += 1
        if seen == 5:  # in the second epoch's validation
            signal.raise_signal(signal.SIGINT)
        return prediction.mean()

    folder = tmp_path / "stopped"
    with pytest.raises(Stopped, match="stopped after step 8"):
        train(make(folder, metrics={"mean": metric}))
    assert place_of(folder) == [1, 4, 8, 28]
    run = make(folder, metrics={"mean": metric}, resume=True)
    whole = make(tmp_path / "whole", metrics={"mean": metric})
    same(outcome(whole, train(whole)), outcome(run, train(run)))


def test_from_a_checkpoint_of_the_clock(make: Any, outcome: Any, same: Any, tmp_path: Path):
    """A run that dies without a word goes on from its last checkpoint, its metrics cut back."""

    class DiedError(Exception):
        pass

    calls = 0

    def metric(prediction: Tensor, target: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise DiedError
        return prediction.mean()

    folder = tmp_path / "died"
    with pytest.raises(DiedError):
        train(make(folder, metrics={"mean": metric}, checkpoint_seconds=0))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "step": 9999}\n{"kind": "st')
    assert place_of(folder) == [1, 4, 8, 28]
    run = make(folder, metrics={"mean": metric}, resume=True)
    whole = make(tmp_path / "whole", metrics={"mean": metric})
    same(outcome(whole, train(whole)), outcome(run, train(run)))


def test_more_epochs(make: Any, outcome: Any, same: Any, tmp_path: Path):
    train(make(tmp_path / "a", schedule="none"))
    longer = make(tmp_path / "a", schedule="none", resume=True, epochs=5)
    whole = make(tmp_path / "b", schedule="none", epochs=5)
    same(outcome(whole, train(whole)), outcome(longer, train(longer)))


def test_a_finished_run_stays_as_it_is(make: Any, outcome: Any, same: Any, tmp_path: Path):
    run = make(tmp_path / "a")
    before = outcome(run, train(run))
    again = make(tmp_path / "a", resume=True)
    same(before, outcome(again, train(again)))


REFUSED = {
    "another optimizer": ({"optimizer": "SGD"}, "optimizer was 'Adam' and is now 'SGD'"),
    "another seed": ({"seed": 1}, "seed was 0 and is now 1"),
    "other data": ({"batches": Batches(X[:4], Y[:4])}, "number of batches was 4 and is now 1"),
    "a scheduler": ({"schedule": "StepLR"}, "kind of schedule was .cosine. and is now .StepLR."),
    "fewer epochs": ({"epochs": 1}, "has 2 epochs behind it: got epochs=1"),
}


@pytest.mark.parametrize(("changed", "message"), REFUSED.values(), ids=REFUSED)
def test_another_run_is_refused(
    make: Any, same: Any, tmp_path: Path, changed: dict[str, Any], message: str
):
    with pytest.raises(Stopped):
        train(make(tmp_path / "a", stop=9))
    run = make(tmp_path / "a", resume=True, **changed)
    before = {k: v.clone() for k, v in run.model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        train(run)
    same(before, run.model.state_dict())
    assert not run.optimizer.state_dict()["state"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(3, 1), "0.weight was float32 .8, 3. and is now absent"),
        (nn.Sequential(nn.Linear(3, 9)), "0.weight was float32 .8, 3. and is now float32 .9, 3."),
        (nn.Sequential(nn.Linear(3, 8)).double(), "0.weight was float32 .8, 3. and is now float64"),
    ],
    ids=["other names", "another shape", "another dtype"],
)
def test_another_model_is_refused(
    make: Any, same: Any, tmp_path: Path, model: nn.Module, message: str
):
    with pytest.raises(Stopped):
        train(make(tmp_path / "a", stop=2))
    own = optim.Adam(model.parameters())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        train(replace(make(tmp_path / "a", resume=True), model=model, optimizer=own))
    same(before, model.state_dict())


def test_a_damaged_checkpoint_changes_nothing(make: Any, same: Any, tmp_path: Path):
    with pytest.raises(Stopped):
        train(make(tmp_path / "a", stop=5))
    for path in (tmp_path / "a" / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    metrics = (tmp_path / "a" / "metrics.jsonl").read_bytes()
    run = make(tmp_path / "a", resume=True)
    before = {k: v.clone() for k, v in run.model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"No checkpoint in .* is whole: .*cut short"):
        train(run)
    same(before, run.model.state_dict())
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == metrics


def test_a_run_does_not_write_over_another(make: Any, tmp_path: Path):
    train(make(tmp_path / "a"))
    with pytest.raises(RecipeError, match="holds an earlier one"):
        train(make(tmp_path / "a"))


def test_a_state_that_cannot_be_kept_is_refused_before_training(make: Any, tmp_path: Path):
    run = make(tmp_path / "a", optimizer="a user's", stop=1)
    run.optimizer.param_groups[0]["path"] = Path("x")
    with pytest.raises(CheckpointError, match=r"got pathlib.*PosixPath in state"):
        train(run)


def test_a_state_that_cannot_be_kept_any_more_fails_the_run(make: Any, tmp_path: Path):
    run = make(tmp_path / "a", optimizer="a user's")
    run.optimizer.register_step_post_hook(lambda o, *_: o.param_groups[0].update(path=Path("x")))
    with pytest.raises(RunError, match=r"got pathlib.*PosixPath in state"):
        train(run)


def test_signals_are_given_back(make: Any, tmp_path: Path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(make(tmp_path / "a"))
    with pytest.raises(Stopped):
        train(make(tmp_path / "b", stop=1))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
