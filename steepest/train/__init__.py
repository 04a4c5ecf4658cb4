"""The training loop, the run, its checkpoints, metrics and progress.

The room can be called: `steepest.train(run)` is `steepest.train.train(run)`.
"""

import sys
from types import ModuleType

from steepest.errors import RunError
from steepest.train.device import choose_device
from steepest.train.files.checkpoint import load_checkpoint, save_checkpoint, save_model
from steepest.train.measured.measures import OverAll, metrics_for, validate
from steepest.train.measured.metrics import Mean, MetricsFile, read_metrics
from steepest.train.run import Report, Run
from steepest.train.stop import Stopped
from steepest.train.trainer import train

__all__ = [
    "Mean",
    "MetricsFile",
    "OverAll",
    "Report",
    "Run",
    "RunError",
    "Stopped",
    "choose_device",
    "load_checkpoint",
    "metrics_for",
    "read_metrics",
    "save_checkpoint",
    "save_model",
    "train",
    "validate",
]


class _Room(ModuleType):
    """This module, which `from steepest import train` means as the function."""

    def __call__(self, run: Run) -> Report:
        """Train a run: see `steepest.train.train`."""
        return train(run)


sys.modules[__name__].__class__ = _Room
