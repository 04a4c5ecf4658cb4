"""Best: the best validation so far, the weights that it measured, and the patience left."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from steepest.train.kinds import Row
from steepest.train.measured.weights import copied
from steepest.train.run import Run


class Best:
    """What a run watches: its best row, that row's weights, and how long nothing was better.

    Attributes:
        row: the best row; None before there is one with a finite number.
        weights: the model's state_dict at that row, copied; None where none are kept.
        waited: how many rows in a row were no better.
    """

    def __init__(self, run: Run) -> None:
        self.key = run.monitored
        self.sign = -1.0 if run.best_is == "max" else 1.0
        self.patience = run.patience
        self.keeps = run.validation is not None and run.folder is not None
        self.row: Row | None = None
        self.weights: dict[str, Any] | None = None
        self.waited = 0

    @property
    def exhausted(self) -> bool:
        """Whether patience is at its end."""
        return self.patience is not None and self.waited >= self.patience

    def look(self, row: Row, weights: Callable[[], Mapping[str, Any]]) -> None:
        """Take note of a row; ask for the weights if it is the best one."""
        value = row.get(self.key)
        if value is None or not math.isfinite(value) or not self._is_better(value):
            self.waited += 1
            return
        self.waited = 0
        self.row = row
        if self.keeps:
            self.weights = copied(weights())

    def state(self) -> dict[str, Any]:
        """Return what continues this."""
        return {"row": self.row, "weights": self.weights, "waited": self.waited}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned; the best by another measure is not known as the best."""
        self.row, self.weights, self.waited = state["row"], state["weights"], state["waited"]
        if self.row is not None and self.key not in self.row:
            self.row = self.weights = None

    def _is_better(self, value: float) -> bool:
        return self.row is None or self.sign * value < self.sign * self.row[self.key]
