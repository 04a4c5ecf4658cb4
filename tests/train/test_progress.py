"""A bar in a terminal, plain lines in a log, neither drawn at every batch."""

import io
import re
import sys

import pytest
import torch
from rich.console import Console
from torch import nn

from steepest.data import Batches
from steepest.train import Run, record, train
from steepest.train import clock as clock_module
from steepest.train.shown import progress as progress_module
from steepest.train.shown.progress import Bar, Lines, Nothing, Place, open_progress


class Clock:
    """A clock that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(progress_module, "perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120, legacy_windows=False)


def test_the_bar_tells_epoch_loss_lr_pace_and_time_left(clock: Clock):
    console = terminal()
    place = Place(epochs=4, batches=50)
    bar = Bar("line", place, console)
    clock.now = 10.0
    place.epoch, place.batch, place.samples = 1, 0, 50
    bar.row(place, {"loss": 0.5, "validation_loss": 0.25, "lr": 0.1})
    place.batch, place.samples = 50, 100
    bar.draw(place, 0.12345, 0.1)
    bar.close()
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    assert "line" in shown
    assert "epoch 2/4  loss 0.1235  validation loss 0.25  lr 0.1  10 samples/s  0:10 left" in shown


def test_the_bar_without_a_length(clock: Clock):
    console = terminal()
    place = Place(epochs=2)
    bar = Bar("stream", place, console)
    clock.now, place.batch, place.samples = 100.0, 50, 50
    bar.draw(place, 1.0, 0.1)
    bar.close()
    assert "0.5 samples/s" in console.file.getvalue()
    assert "left" not in console.file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "0:05 left"), (65, "1:05 left"), (3725, "1:02:05 left"), (0, "-:-- left")],
)
def test_the_time_left(clock: Clock, seconds: float, text: str):
    console = terminal()
    place = Place(epochs=2, batches=10)
    bar = Bar("x", place, console)
    if seconds:
        clock.now, place.epoch, place.step = seconds, 1, 10
    bar.draw(place, 1.0, 0.1)
    bar.close()
    assert text in console.file.getvalue()


def test_the_time_left_of_a_resumed_run_counts_from_where_it_went_on(clock: Clock):
    console = terminal()
    place = Place(epoch=8, step=80, epochs=10, batches=10)
    bar = Bar("x", place, console)
    clock.now, place.epoch, place.step = 7.0, 9, 90
    bar.draw(place, 1.0, 0.1)
    bar.close()
    assert "0:07 left" in console.file.getvalue()


def test_a_log_has_a_line_per_hundred_batches_and_per_epoch(clock: Clock):
    lines: list[str] = []
    place = Place(epochs=2, batches=250)
    shown = Lines(place, lines.append)
    for second, batch in enumerate([40, 99, 100, 120, 199, 210, 240], 1):
        clock.now, place.batch, place.samples = second, batch, 2 * batch
        shown.draw(place, 0.5, 0.1)
    clock.now, place.epoch, place.batch, place.step, place.samples = 8, 1, 0, 250, 500
    shown.row(place, {"epoch": 1, "loss": 0.25, "validation_loss": 0.125, "lr": 0.01})
    shown.draw(place, 0.5, 0.1)
    assert lines == [
        "epoch 1/2  batch 100/250  loss 0.5  lr 0.1  67 samples/s",
        "epoch 1/2  batch 210/250  loss 0.5  lr 0.1  73 samples/s",
        "epoch 1/2  step 250  loss 0.25  validation loss 0.125  lr 0.01  40 samples/s",
    ]


@pytest.mark.parametrize(
    ("epochs", "seconds", "count"),
    [(1, 0, 1), (20, 0, 20), (200, 0, 20), (1003, 0, 20), (30, 2, 30)],
)
def test_fast_epochs_do_not_flood_a_log(clock: Clock, epochs: int, seconds: float, count: int):
    lines: list[str] = []
    place = Place(epochs=epochs, batches=1)
    shown = Lines(place, lines.append)
    for epoch in range(1, epochs + 1):
        clock.now += seconds
        place.epoch = place.step = epoch
        shown.row(place, {"epoch": epoch, "loss": 0.5, "lr": 0.1})
    assert len(lines) == count
    assert lines[-1].startswith(f"epoch {epochs}/{epochs}")


def test_what_is_shown_depends_on_the_terminal(monkeypatch: pytest.MonkeyPatch):
    place = Place()
    assert isinstance(open_progress("x", place, shown=False), Nothing)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert isinstance(open_progress("x", place), Lines)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = open_progress("x", place)
    bar.close()
    assert isinstance(bar, Bar)


class Counted:
    """Progress that counts its drawings."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.drawn, self.epochs, self.closed = seconds, 0, 0, 0

    def draw(self, place: Place, loss: float, lr: float) -> None:
        self.drawn += 1

    def row(self, place: Place, row: dict) -> None:
        self.epochs += 1

    def close(self) -> None:
        self.closed += 1


def test_a_bar_is_drawn_about_ten_times_a_second_and_a_log_at_most_once():
    assert 0.05 <= Bar.seconds <= 0.2
    assert Lines.seconds >= 1


@pytest.mark.parametrize(("seconds", "drawn"), [(1e9, 0), (0.0, 30 + 4)])
def test_drawing_goes_by_the_clock(monkeypatch: pytest.MonkeyPatch, seconds: float, drawn: int):
    counted = Counted(seconds)
    monkeypatch.setattr(record, "open_progress", lambda *_, **__: counted)
    monkeypatch.setattr(clock_module, "LOOK_SECONDS", 0.0)  # at the clock, after every update
    model = nn.Linear(1, 1)
    batches = Batches(torch.zeros(10, 1), torch.zeros(10, 1), batch_size=1)
    optimizer = torch.optim.SGD(model.parameters())
    run = Run(model=model, optimizer=optimizer, loss_fn=nn.MSELoss(), batches=batches, epochs=3)
    train(run)
    assert (counted.drawn, counted.epochs, counted.closed) == (drawn, 3, 1)


@pytest.mark.parametrize(("milliseconds", "looks"), [(0.0, 2), (1, 4), (10, 20)])
def test_the_clock_is_looked_at_after_as_many_updates_as_take_a_few_milliseconds(
    monkeypatch: pytest.MonkeyPatch, milliseconds: float, looks: int
):
    counted, time = Counted(0.0), [1.0]
    monkeypatch.setattr(record, "open_progress", lambda *_, **__: counted)
    for module in (record, clock_module):
        monkeypatch.setattr(module, "perf_counter", lambda: time[0])
    monkeypatch.setattr(clock_module, "LOOK_SECONDS", 0.0055)

    def loss_fn(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        time[0] += milliseconds / 1000
        return nn.functional.mse_loss(prediction, target)

    model = nn.Linear(1, 1)
    batches = Batches(torch.zeros(20, 1), torch.zeros(20, 1), batch_size=1)
    optimizer = torch.optim.SGD(model.parameters())
    train(Run(model=model, optimizer=optimizer, loss_fn=loss_fn, batches=batches, epochs=1))
    assert counted.drawn == looks + len(["before the epoch", "after it"])
