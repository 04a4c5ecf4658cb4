"""Run a person's own script with the watch on, as `python script.py` runs it without.

The script imports torch when it likes, so that what it sets before holds; the watch begins there.
"""

import importlib.machinery
import importlib.util
import io
import runpy
import sys
import types
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steepest.check.watch import Watch

FAILED = 2
INTERRUPTED = 130


class Script:
    """A run of a script or a module.

    Attributes:
        watch: what listened; None where torch was never imported.
        code: the exit code that it asked for; 2 where it failed, 130 at Ctrl-C, None where the
            watch stopped it.
    """

    def __init__(self, words: Sequence[str], *, module: bool = False, stop: bool = False) -> None:
        self.words = list(words)
        self.module = module
        self.stop = stop
        self.watch: Watch | None = None
        self.code: int | None = 0

    def run(self) -> None:
        """Run it to its end, and close the watch."""
        if "torch" in sys.modules:
            self._begin()
        else:
            sys.meta_path.insert(0, _AtTorch(self._begin))
        before = sys.argv, sys.path[:], sys.modules["__main__"]
        try:
            self._execute()
        except SystemExit as stopped:
            self.code = _exit_code(stopped.code)
        except KeyboardInterrupt as error:
            _show(error)
            self.code = INTERRUPTED
        except BaseException as error:
            if type(error).__name__ == "FactError":  # whose room may never have been imported
                self.code = None
            else:
                _show(error)
                self.code = FAILED
        finally:
            if self.watch is not None:
                self.watch.close()
            sys.argv, sys.path[:], sys.modules["__main__"] = before
            sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, _AtTorch)]

    def _begin(self) -> None:
        from steepest.check import Watch

        self.watch = Watch(stop=self.stop)

    def _execute(self) -> None:
        sys.argv = self.words
        if self.module:
            sys.path.insert(0, "")
            runpy.run_module(self.words[0], run_name="__main__", alter_sys=True)
            return
        path = str(Path(self.words[0]).absolute())
        sys.path.insert(0, str(Path(path).resolve().parent))
        main = types.ModuleType("__main__")
        main.__dict__.update(__file__=path, __builtins__=__builtins__, __cached__=None)
        sys.modules["__main__"] = main
        with io.open_code(path) as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        exec(code, main.__dict__)


class _AtTorch(MetaPathFinder):
    """Do something as soon as torch has been imported."""

    def __init__(self, then: Callable[[], None]) -> None:
        self.then = then

    def find_spec(
        self, name: str, path: Any, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find torch as everyone else does, but for what comes after."""
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def loaded(module: ModuleType) -> None:
                load(module)
                self.then()

            spec.loader.exec_module = loaded
        return spec


def _exit_code(code: object) -> int:
    """Return what Python exits with, and print what it prints."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code
    print(code, file=sys.stderr)
    return 1


def _show(error: BaseException) -> None:
    """Print a traceback as without us."""
    seen: BaseException | None = error
    while seen is not None:
        seen.__traceback__ = _own(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
    sys.excepthook(type(error), error, error.__traceback__)


def _own(trace: TracebackType | None) -> TracebackType | None:
    """Leave out the frames of this room, and of how a module is run."""
    room, frames = str(Path(__file__).parent), []
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith((room, "<frozen runpy>")):
            frames.append(trace)
        trace = trace.tb_next
    for frame, following in zip(frames, [*frames[1:], None], strict=False):
        frame.tb_next = following
    return frames[0] if frames else None
