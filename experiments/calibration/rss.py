"""The most anonymous memory of this process: without pages of mapped files, which the system may take back."""

from pathlib import Path
from threading import Event, Thread
from types import TracebackType

__all__ = ["Anonymous"]

STATUS = Path("/proc/self/status")
PAUSE = 0.02
"""Seconds between looks: the kernel keeps no peak of it, and what lives shorter may be missed."""


class Anonymous:
    """Looks again and again while it is entered; `peak` is the most bytes since it was last reset."""

    def __init__(self) -> None:
        self.peak = 0
        self._end = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    def reset(self) -> None:
        """Begin anew."""
        self.peak = _now()

    def __enter__(self) -> "Anonymous":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(PAUSE):
            self.peak = max(self.peak, _now())


def _now() -> int:
    if not STATUS.exists():
        return 0
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024
