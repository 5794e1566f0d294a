"""Signals that end a process: SIGTERM and SIGUSR1, with which Slurm announces the end of a job, and Ctrl-C.

with signals_end_the_process():     a signal raises where the process is, and all cleanup runs
with Deferred() as deferred:    a signal is only noted, until the work has saved its state
deferred.raise_noted()      between two steps
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

__all__ = ["ENDING", "TERMINATED", "Deferred", "Terminated", "signals_end_the_process"]

TERMINATED = 143
"""The exit code, 128 + SIGTERM, also of SIGUSR1."""
ENDING = (signal.SIGTERM, signal.SIGUSR1)


class Terminated(SystemExit):
    """The process got a signal to end; not an Exception, so that no handler of errors stops it."""

    def __init__(self, number: int) -> None:
        super().__init__(TERMINATED)
        self.signal = signal.Signals(number)


@contextlib.contextmanager
def signals_end_the_process() -> Iterator[None]:
    """Raise Terminated on the signals inside the block; without effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _raise) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class Deferred:
    """Notes the first signal inside the block instead of raising it; a second one raises at once."""

    def __init__(self) -> None:
        self.noted: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Deferred":
        if threading.current_thread() is threading.main_thread():
            numbers = [*ENDING]
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # in the background it is ignored
                numbers.append(signal.SIGINT)
            self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        """Put the former handlers back, where nobody has done so: Lightning restores those of before its trainer."""
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def raise_noted(self) -> None:
        """Raise the noted signal, if any."""
        if self.noted is not None:
            _raise(self.noted)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.noted is not None:
            _raise(number, frame)
        self.noted = number


def _raise(number: int, _frame: FrameType | None = None) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated(number)
