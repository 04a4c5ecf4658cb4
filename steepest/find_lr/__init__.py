"""The learning-rate range test: which lr moves the loss most, and from which on it diverges.

The room can be called: `steepest.find_lr(run)` is `steepest.find_lr.find_lr(run)`.
"""

import sys
from types import ModuleType
from typing import Any

from steepest.find_lr.found import FoundLR
from steepest.find_lr.sweep import find_lr
from steepest.train import Run

__all__ = ["FoundLR", "find_lr"]


class _Room(ModuleType):
    """This module, which `steepest.find_lr` means as the function."""

    def __call__(self, run: Run, **options: Any) -> FoundLR:
        """Find a learning rate: see `steepest.find_lr.find_lr`."""
        return find_lr(run, **options)


sys.modules[__name__].__class__ = _Room
