"""torch's own warnings, which are to name the line that they name without the taps."""

import sys
import warnings
from types import FrameType, ModuleType
from typing import Any

from steepest.check.where import is_of_this_room


class Warnings(ModuleType):
    """Stands for `warnings` in a module of torch; frames of this room do not count."""

    def __getattr__(self, name: str) -> Any:
        return getattr(warnings, name)

    def warn(
        self, message: Any, category: Any = None, stacklevel: int = 1, *args: Any, **kwargs: Any
    ) -> None:
        """Warn of the line that is `stacklevel` frames up, but for those of the taps."""
        frame: FrameType | None = sys._getframe(1)
        level = passed = 1
        while frame is not None and level < stacklevel:
            frame = frame.f_back
            passed += 1
            level += frame is None or not is_of_this_room(frame.f_code)
        warnings.warn(message, category, passed + 1, *args, **kwargs)
