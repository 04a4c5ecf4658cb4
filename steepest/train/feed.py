"""Feed: a run's batches on its device, in their order, from where the run is."""

from collections import deque
from collections.abc import Generator, Iterator
from itertools import islice, repeat
from typing import Any

import torch

from steepest.data import DataLoader
from steepest.data.ordered import Ordered
from steepest.errors import RecipeError
from steepest.train.device import moved
from steepest.train.measured.metrics import rows_of
from steepest.train.resumed.randomness import random_state, set_random_state
from steepest.train.run import Run
from steepest.train.shown.progress import Place

Window = tuple[tuple[Any, float], ...]
"""The batches of one update, each with its share of the rows."""


class Feed:
    """The batches of a run, in windows of as many as make an update.

    An epoch that is resumed in its middle is begun as it was begun, with the random state of that
    time, read up to its place, and continued with the random state of the checkpoint. Its end is a
    place of its own, where a loader may draw, too.

    Attributes:
        epoch_random: the random state at the beginning of this epoch.
        at_end: whether this epoch's batches have been found to end.
    """

    def __init__(self, run: Run, device: torch.device) -> None:
        self.batches = run.batches
        self._ordered = run.batches if isinstance(run.batches, Ordered) else None
        self.accumulate = run.accumulate
        self.device = device
        self.epoch_random: dict[str, Any] = {}
        self.at_end = False
        self._resumed: dict[str, Any] | None = None

    def resume(self, kept: dict[str, Any], place: Place) -> None:
        """Take up what a checkpoint kept."""
        self.epoch_random, random = kept["epoch_random"], kept["random"]
        self.at_end = kept["at_end"]
        set_random_state(random, self.device, self.batches)
        if place.batch:
            self._resumed = random
        if place.epoch and getattr(self.batches, "persistent_workers", False):
            iter(self.batches)  # workers that live on draw their seed in the first epoch alone
            set_random_state(random, self.device, self.batches)

    def random(self) -> dict[str, Any]:
        """Return the random state of now."""
        return random_state(self.device, self.batches)

    def set_random(self, state: dict[str, Any]) -> None:
        """Set the random state back to what `random` returned."""
        set_random_state(state, self.device, self.batches)

    def windows(self, place: Place) -> Generator[Window, None, None]:
        """Hand out this epoch's windows from its place on.

        Raises:
            RecipeError: the epoch has no batch, or one is not `(*inputs, target)`.
        """
        source = self._source(place)
        if self.device.type != "cpu" or self._ordered is None:
            source = moved(source, self.device)
        if self.accumulate == 1:
            yield from zip(zip(source, repeat(1.0)))  # in C: a third of a loop's time
        else:
            while window := list(islice(source, self.accumulate)):
                self.at_end = len(window) < self.accumulate
                rows = [rows_of(batch[-1]) for batch in window]
                yield tuple((b, n / sum(rows)) for b, n in zip(window, rows, strict=True))
        self.at_end = True
        if place.batch == 0:
            raise RecipeError(
                f"batches gives at least one batch per epoch: got none in epoch "
                f"{place.epoch + 1}; give Batches, a DataLoader or a list"
            )
        place.batches = place.batch

    def _source(self, place: Place) -> Iterator[Any]:
        if self._ordered is not None:  # which draws no random number of others
            self.at_end, self._resumed = False, None
            return self._ordered.epoch(place.epoch, start=place.batch)
        if self._resumed is None:
            self.epoch_random = random_state(self.device, self.batches)
            self.at_end = False
        else:
            set_random_state(self.epoch_random, self.device, self.batches)
        if isinstance(self.batches, DataLoader):
            source = self.batches.epoch_from(place.batch + self.at_end)
        else:
            source = iter(self.batches)
            deque(islice(source, place.batch + self.at_end), maxlen=0)
        if self._resumed is not None:
            set_random_state(self._resumed, self.device, self.batches)
            self._resumed = None
        return source
