"""Stopping a run between two updates, when Ctrl-C or SIGTERM asks for it."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class Stopped(KeyboardInterrupt):
    """A signal stopped the run after a whole update; its checkpoint, if it keeps one, is written.

    Attributes:
        step: the updates done.
        signal: the number of the signal.
    """

    def __init__(self, step: int, number: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step
        self.signal = number


class StopSignals:
    """Note Ctrl-C and SIGTERM instead of dying in the middle of an update.

    The first one is noted in `asked` and calls `hurry`; the second one acts as usual, at once.
    A program's own handlers stay, and other threads than the main one cannot listen.
    """

    def __init__(self, hurry: Callable[[], None]) -> None:
        self.asked: int | None = None
        self._hurry = hurry
        self._usual: dict[int, Any] = {}

    def listen(self) -> None:
        """Note signals from now on."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, usual in (
            (signal.SIGINT, signal.default_int_handler),
            (signal.SIGTERM, signal.SIG_DFL),
        ):
            if signal.getsignal(number) is usual:
                self._usual[number] = signal.signal(number, self._note)

    def restore(self) -> None:
        """Let signals act as before."""
        for number, usual in self._usual.items():
            signal.signal(number, usual)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = number
        self.restore()
        self._hurry()
