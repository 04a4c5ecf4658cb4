"""steepest trains PyTorch models: an optimizer is a formula, the loop is in the open.

    import steepest.optim as optim      # torch.optim's names, as fused kernels
    from steepest import Run, train     # the loop, with checkpoints, metrics and progress

`import steepest` itself imports nothing: each name is fetched when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steepest import clip, data, optim, schedules
    from steepest.find_lr import find_lr
    from steepest.train import Report, Run, train

__version__ = "0.1.0"
__all__ = ["Report", "Run", "__version__", "clip", "data", "find_lr", "optim", "schedules", "train"]


def __getattr__(name: str) -> Any:
    if name in ("Report", "Run"):
        return getattr(importlib.import_module("steepest.train"), name)
    if name in __all__:
        return importlib.import_module(f"steepest.{name}")
    raise AttributeError(f"module 'steepest' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
