"""Watch a PyTorch training loop, and name the classic mistakes in it.

Facts need no threshold: identity, order, shape, equality. Each has a code.
"""

import importlib
from typing import TYPE_CHECKING, Any

from steepest.check.codes import CODES, Code
from steepest.check.finding import Finding

if TYPE_CHECKING:
    from steepest.check.watch import FactError, Watch, watch

__all__ = ["CODES", "Code", "FactError", "Finding", "Watch", "watch"]


def __getattr__(name: str) -> Any:
    """Import torch only for what needs it: a script is to import it by itself."""
    if name in ("FactError", "Watch", "watch"):
        room = importlib.import_module("steepest.check.watch")
        globals().update({word: getattr(room, word) for word in ("FactError", "Watch", "watch")})
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
