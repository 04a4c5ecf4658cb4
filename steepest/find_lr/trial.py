"""A trial: updates of a run, each with an lr that is given."""

import copy
import math
from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor

from steepest.clip import clip_grad_norm_
from steepest.optim import Optimizer
from steepest.train import Run
from steepest.train.feed import Feed, Window
from steepest.train.measured.metrics import rows_of
from steepest.train.precision import Precision
from steepest.train.shown.progress import Place

ROWS = 16  # at least so many tell the loss at an lr: single rows differ too much


class Trial:
    """The updates of a run, epoch after epoch, without a schedule.

    Attributes:
        place: where the trial is.
        connected: whether a gradient has reached a parameter.
    """

    def __init__(self, run: Run, device: torch.device) -> None:
        self.run = run
        self.model = run.model.to(device).train()
        self.optimizer = run.optimizer
        self.place = Place(epochs=None)
        self.connected = False
        self._precision = Precision(run.precision, device)
        self._windows = self._endless(Feed(run, device))
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._shares = shares(self.optimizer)
        set_schedules_aside(self.optimizer)

    def loss(self, lr: float) -> float:
        """Return the mean loss before updates with this lr; one not finite is followed by none."""
        for group, share in zip(self.optimizer.param_groups, self._shares, strict=True):
            set_lr(group, lr * share)
        total, rows = 0.0, 0
        while rows < ROWS:
            losses = self._gradients(next(self._windows))
            total += sum(loss * n for loss, n in losses)
            rows += sum(n for _, n in losses)
            if not math.isfinite(total):
                break
            self._update()
        return total / rows

    def close(self) -> None:
        """Let go of the batches."""
        self._windows.close()

    def _gradients(self, window: Window) -> list[tuple[float, int]]:
        """Compute the gradients of an update; return the loss and the rows of each batch."""
        precision, losses = self._precision, []
        forward, loss_fn = precision.computing(self.model), precision.computing(self.run.loss_fn)
        self.optimizer.zero_grad()
        for (*inputs, target), share in window:
            loss = loss_fn(forward(*inputs), target)
            precision.scaled(loss, share).backward()
            losses.append((loss.item(), rows_of(target)))
        if not self.connected:
            self.connected = any(
                p.grad is not None and float(p.grad.norm()) != 0 for p in self._parameters
            )
        return losses

    def _update(self) -> None:
        if self.run.clip_norm is not None:
            self._precision.unscale(self.optimizer)
            clip_grad_norm_(self._parameters, self.run.clip_norm)
        self._precision.step(self.optimizer)

    def _endless(self, feed: Feed) -> Generator[Window]:
        place = self.place
        while True:
            for window in feed.windows(place):
                yield window
                place.batch += len(window)
            place.epoch += 1
            place.batch = 0


def shares(optimizer: torch.optim.Optimizer) -> list[float]:
    """Return each group's lr as a multiple of the first that is above 0."""
    lrs = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    first = next((lr for lr in lrs if lr > 0), 0.0)
    return [lr / first if first else 1.0 for lr in lrs]


def set_lr(group: dict[str, Any], lr: float) -> None:
    """Set a group's lr, in place where it is a tensor."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr


def set_schedules_aside(optimizer: torch.optim.Optimizer) -> None:
    """Have the optimizer forget that its lr is a function of the steps."""
    if isinstance(optimizer, Optimizer):
        optimizer.scheduled = copy.copy(optimizer.scheduled)
        optimizer.scheduled.groups = [
            {name: schedule for name, schedule in found.items() if name != "lr"}
            for found in optimizer.scheduled.groups
        ]
