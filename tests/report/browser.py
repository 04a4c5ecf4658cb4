"""A headless chromium that opens a page, told what to do through a pipe (DevTools protocol).

https://chromedevtools.github.io/devtools-protocol/; messages are JSON, each ended by a zero byte.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--remote-debugging-pipe",
)
START = """import os, sys
there, back = map(int, sys.argv[1:3])
os.dup2(there, 100, False)
os.dup2(back, 101, False)
os.dup2(100, 3)
os.dup2(101, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Chromium hears on descriptor 3 and answers on 4."""


class Browser:
    """One page of a browser; a context that ends it.

    Attributes:
        errors: what the page's scripts threw and the console's errors.
        asked: the addresses that the page asked for.
    """

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        there, self._told = os.pipe()
        self._heard, back = os.pipe()
        start = [sys.executable, "-ISc", START, str(there), str(back)]
        self._process = subprocess.Popen(
            [*start, CHROMIUM, *OPTIONS, f"--user-data-dir={profile}"],
            pass_fds=(there, back),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(there)
        os.close(back)
        self._number, self._session, self._buffer = 0, None, b""
        self.errors: list[str] = []
        self.asked: list[str] = []
        self._events: list[str] = []

    def __enter__(self) -> "Browser":
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.tell("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.tell(f"{domain}.enable")
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError, EOFError):
            self._session = None
            self.tell("Browser.close")
        self._process.wait(20)
        os.close(self._told)
        os.close(self._heard)

    def open(self, path: Path, width: int, height: int = 900, scheme: str = "light") -> None:
        """Open a file in a window of this width, as a phone where it is narrow."""
        phone = width < 600
        self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        self.tell("Emulation.setTouchEmulationEnabled", enabled=phone)
        self.tell(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        self.errors.clear()
        self.asked.clear()
        self._events.clear()
        self.tell("Page.navigate", url=path.resolve().as_uri())
        while "Page.loadEventFired" not in self._events:
            self._hear()

    def value(self, script: str) -> Any:
        """Return what a script gives in the page."""
        answer = self.tell(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Save the page, or what the window shows of it, as PNG."""
        answer = self.tell("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def move(self, x: float, y: float) -> None:
        """Move the mouse to a place in the window."""
        self.tell("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def paper(self, path: Path) -> None:
        """Save the page as PDF of A4."""
        answer = self.tell(
            "Page.printToPDF",
            paperWidth=8.27,
            paperHeight=11.69,
            printBackground=True,
            preferCSSPageSize=True,
        )
        path.write_bytes(base64.b64decode(answer["data"]))

    def tell(self, method: str, **given: Any) -> Any:
        """Send a command; return its answer."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": given}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._told, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._hear()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def _hear(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            read = os.read(self._heard, 2**20)
            if not read:
                raise EOFError("chromium ended")
            self._buffer += read
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        given = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(given["exceptionDetails"])[:500])
            case "Log.entryAdded":
                if given["entry"]["level"] == "error":
                    self.errors.append(given["entry"]["text"])
            case "Network.requestWillBeSent":
                self.asked.append(given["request"]["url"])
            case str(event):
                self._events.append(event)
        return message
