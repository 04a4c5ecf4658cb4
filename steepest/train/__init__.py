"""The training loop, the run, its checkpoints, metrics and progress."""

from steepest.train.checkpoint import load_checkpoint, save_checkpoint, save_model
from steepest.train.device import choose_device
from steepest.train.metrics import Mean, MetricsFile, read_metrics
from steepest.train.run import Report, Run, RunError
from steepest.train.stop import Stopped
from steepest.train.trainer import train, validate

__all__ = [
    "Mean",
    "MetricsFile",
    "Report",
    "Run",
    "RunError",
    "Stopped",
    "choose_device",
    "load_checkpoint",
    "read_metrics",
    "save_checkpoint",
    "save_model",
    "train",
    "validate",
]
