"""The parent's end of a worker: start it, ask it, end it. It computes only while it is asked."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from experiments.bench.cases import Case
from quantbooth.runtime.malloc import VARIABLE, settings

__all__ = ["WorkerProcess", "WorkerFailed"]

ROOT = Path(__file__).parents[2]


class WorkerFailed(Exception):
    """A worker said what went wrong, or was gone; the message is why."""


class WorkerProcess:
    """A running worker; leaving the block ends it."""

    def __init__(self, case: Case) -> None:
        self.case = case
        command = [sys.executable, "-m", "experiments.bench.worker", json.dumps(case.key)]
        pipe = subprocess.PIPE
        environment = {VARIABLE: settings(), **os.environ}  # as a command of quantbooth starts, for peers too
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def ask(self, command: str) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Raises:
            WorkerFailed: when the answer is an error, or the worker ended without one.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerFailed(_ending(self._process.wait()))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer

    def end(self) -> None:
        """End the process and wait until its memory is free again."""
        self._process.kill()
        self._process.communicate()


def _ending(code: int) -> str:
    if code == -9:
        return "the process was killed, as the kernel does when memory runs out"
    return f"the process ended with code {code} and said nothing"
