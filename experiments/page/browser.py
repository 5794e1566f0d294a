"""A headless Chromium driven through a pipe, so that a page is tried in a real browser without a further library."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Browser", "find"]

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-extensions"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--remote-debugging-pipe"),
)
PATIENCE = 60.0
PLACING = """
import fcntl, os, sys
high = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in sys.argv[1:3]]
for place, number in zip((3, 4), high):
    os.dup2(number, place)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Puts the pipe's ends where the browser looks for them; not every shell can, with files of two digits."""


def find() -> str | None:
    """The browser of this machine; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page in a browser of its own, spoken to in the DevTools protocol (messages end in a zero byte).

    Attributes:
        complaints: what the page has written to the console as an error, thrown, or failed to load.
    """

    def __init__(self, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        self.complaints: list[str] = []
        self._number, self._rest, self._loaded = 0, b"", False
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._process, self._in, self._out = _started(str(find()), self._profile.name)
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")
        mobile = width < 600
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    def open(self, file: Path) -> float:
        """Show the file; returns the seconds until everything in it was loaded and a frame was drawn."""
        self._loaded, begun = False, time.perf_counter()
        self.ask("Page.navigate", url=file.resolve().as_uri())
        while not self._loaded:
            self._take(self._receive())
        self.run("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        return time.perf_counter() - begun

    def run(self, script: str) -> Any:
        """The value of a script in the page, awaited where it is a promise.

        Raises:
            RuntimeError: it threw.
        """
        found = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script!r} threw {found['exceptionDetails']}")
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """A key down and up, named as in KeyboardEvent.key; Enter also types its character, which clicks buttons."""
        text = {"text": "\r", "windowsVirtualKeyCode": 13} if key == "Enter" else {}
        code = {"Escape": 27, "Tab": 9, "ArrowRight": 39, "ArrowDown": 40}.get(key)
        extra = text or ({"windowsVirtualKeyCode": code} if code else {})
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, **extra)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)

    def picture(self, file: Path) -> None:
        """What is seen, as a PNG file."""
        data = self.ask("Page.captureScreenshot", format="png")["data"]
        file.write_bytes(base64.b64decode(data))

    def ask(self, method: str, **given: Any) -> dict[str, Any]:
        """The page's answer to one command."""
        return self._ask(method, self._session, **given)

    def _ask(self, method: str, session: str | None = None, **given: Any) -> dict[str, Any]:
        self._number += 1
        command = {"id": self._number, "method": method, "params": given}
        if session is not None:
            command["sessionId"] = session
        _write(self._in, json.dumps(command).encode() + b"\0")
        while (message := self._receive()).get("id") != command["id"]:
            self._take(message)
        if "error" in message:
            raise RuntimeError(f"{method} failed: {message['error']}")
        return dict(message["result"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._out], [], [], PATIENCE)[0]:
                raise TimeoutError(f"the browser said nothing for {PATIENCE:g} seconds")
            if not (found := os.read(self._out, 1 << 20)):
                raise RuntimeError("the browser has ended")
            self._rest += found
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def _take(self, message: dict[str, Any]) -> None:
        method, given = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown" or (
            method == "Runtime.consoleAPICalled" and given["type"] in ("error", "assert")
        ):
            self.complaints.append(str(given))
        elif method == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.complaints.append(given["entry"]["text"])


def _started(binary: str, profile: str) -> tuple[subprocess.Popen[bytes], int, int]:
    """The browser, what it reads from and what it writes to; its own ends are the file numbers 3 and 4."""
    (its_in, ours_out), (ours_in, its_out) = os.pipe(), os.pipe()
    placing = [sys.executable, "-S", "-E", "-c", PLACING, str(its_in), str(its_out)]
    command = [*placing, binary, *FLAGS, f"--user-data-dir={profile}"]
    try:
        process = subprocess.Popen(command, pass_fds=(its_in, its_out), stderr=subprocess.DEVNULL)
    finally:
        os.close(its_in)
        os.close(its_out)
    return process, ours_out, ours_in


def _write(pipe: int, data: bytes) -> None:
    while data:
        data = data[os.write(pipe, data) :]
