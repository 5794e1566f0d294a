"""A command in a forked child that is killed, or whose storage fails, at the n-th change of a file.

Python's audit events report every change before it is made: files opened for writing, renamed, linked, removed; folders
made and removed. Native code (safetensors, parquet) writes without them, so `after` kills at a time as well.
"""

import errno
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["Disturbance", "Outcome", "run"]

MAKING = ("open", "os.mkdir", "os.rename", "os.link")
REMOVING = ("os.remove", "os.rmdir")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
LIMIT = 300.0
"""Seconds that a command may take."""


@dataclass(frozen=True)
class Disturbance:
    """What happens: "kill" at change `at`, "after" `at` seconds, or from change `at` on an error of this name."""

    kind: str
    at: float

    @property
    def number(self) -> int:
        return int(getattr(errno, self.kind))


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code (negative: a signal), what it printed, its changes of files, its seconds."""

    code: int
    said: str
    changes: int
    seconds: float


def run(program: Callable[[], object], words: list[str], folder: Path, disturbed: Disturbance | None = None) -> Outcome:
    """Run a command in a folder as if typed, in a child of this process, which has its libraries imported."""
    output, counted = folder.with_name("said.txt"), folder.with_name("changes.txt")
    counted.unlink(missing_ok=True)
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _work(program, words, folder, disturbed, output, counted)
    killed_at = began + (disturbed.at if disturbed is not None and disturbed.kind == "after" else LIMIT)
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > killed_at:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
        time.sleep(0.005)
    changes = int(counted.read_text()) if counted.exists() else 0
    code = os.waitstatus_to_exitcode(ended[1])
    return Outcome(code, output.read_text(errors="replace"), changes, time.monotonic() - began)


def _work(
    program: Callable[[], object],
    words: list[str],
    folder: Path,
    disturbed: Disturbance | None,
    output: Path,
    counted: Path,
) -> NoReturn:
    code = 1
    try:
        os.chdir(folder)
        stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))  # not a test's own
        sys.argv = ["quantbooth", *words]
        hook = _Hook(str(folder), disturbed)
        sys.addaudithook(hook)
        try:
            program()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        hook.disturbed = None
        counted.write_text(str(hook.changes))
    finally:
        os._exit(code)


class _Hook:
    """Counts changes of files in a folder; disturbs at the wanted one."""

    def __init__(self, folder: str, disturbed: Disturbance | None) -> None:
        self.folder, self.disturbed, self.changes = folder, disturbed, 0

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in MAKING and event not in REMOVING:
            return
        if event == "open" and not _writes(args[1], args[2]):
            return
        path = os.fspath(args[0]) if isinstance(args[0], str | bytes | os.PathLike) else ""
        place = path if isinstance(path, str) else os.fsdecode(path)
        inside = place.startswith(self.folder) or not place.startswith("/")  # relative: to the folder, or in rmtree
        if not inside:
            return
        self.changes += 1
        disturbed = self.disturbed
        if disturbed is None or disturbed.kind == "after" or self.changes < disturbed.at:
            return
        if disturbed.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if event in MAKING and (disturbed.number == errno.ENOSPC or self.changes == disturbed.at):
            raise OSError(disturbed.number, os.strerror(disturbed.number), place)


def _writes(mode: str | None, flags: int) -> bool:
    return bool(flags & WRITING) if mode is None else any(letter in mode for letter in "wxa+")
