"""Validation: what a run measures on batches that it does not train on."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from steepest.data.ordered import Ordered
from steepest.train.device import moved
from steepest.train.feed import Feed
from steepest.train.kinds import Row
from steepest.train.measured.measures import validate
from steepest.train.measured.weights import averaged
from steepest.train.precision import Precision
from steepest.train.run import Run


class Validation:
    """Measure a run's validation batches; the training goes on as without it.

    Attributes:
        step: the updates done at the last time; -1 before there was one.
        found: what it measured.
    """

    def __init__(self, run: Run, device: torch.device, precision: Precision, feed: Feed) -> None:
        self.run = run
        self.device = device
        self.step = -1
        self.found: Row = {}
        self._precision = precision
        self._feed = feed
        batches = run.validation
        self._ordered = batches if isinstance(batches, Ordered) else None

    def measure(self, step: int, between: Callable[[], None] = lambda: None) -> Row:
        """Return what the batches give, with the averages that the optimizer keeps.

        Whatever random numbers they draw, the run's own are set back. `between` is called before
        each batch, and may raise what ends it.
        """
        run = self.run
        if run.validation is None:
            return {}
        random = self._feed.random()
        try:
            with averaged(run.optimizer):
                forward, batches = self._precision.forward, self.batches(between)
                found = validate(run.model, run.loss_fn, batches, run.metrics, forward=forward)
        finally:
            self._feed.set_random(random)
        self.step = step
        self.found = {f"validation_{name}": value for name, value in found.items()}
        return self.found

    def batches(self, between: Callable[[], None] = lambda: None) -> Iterator[Any]:
        """Hand out the batches, every time in the same order where they have one."""
        batches = self.run.validation if self._ordered is None else self._ordered.epoch(0)
        for batch in moved(() if batches is None else batches, self.device):
            between()
            yield batch
