"""Where in the user's code something happened."""

import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType


@dataclass(frozen=True)
class Place:
    """A line of a file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


_ROOM = str(Path(__file__).parent) + os.sep
_PATHS = sysconfig.get_paths()
_OTHERS = tuple(str(Path(_PATHS[name])) + os.sep for name in ("stdlib", "purelib", "platlib"))
_PACKAGE = str(Path(__file__).parents[1]) + os.sep
_known: dict[CodeType, bool] = {}


def here() -> Place | None:
    """Return the innermost line on the stack that is the user's own; None where there is none.

    Lines of Python's library, of installed packages and of steepest are not.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        own = _known.get(code)
        if own is None:
            own = _known[code] = _is_own(code.co_filename)
        if own:
            return Place(code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return None


def is_of_this_room(code: CodeType) -> bool:
    """Tell whether code is that of the watch itself."""
    return code.co_filename.startswith(_ROOM)


def _is_own(file: str) -> bool:
    recipe = file.startswith(os.path.join(_PACKAGE, "recipes") + os.sep)  # a loop as a user's
    if file.startswith(_PACKAGE) and not recipe:
        return False
    return not file.startswith(("<frozen", *_OTHERS)) and "site-packages" not in file
