"""Commands in processes of their own that do not wait for imports: forked from a server that has imported them once.

They are processes with a PID, signals and an exit code; what a new interpreter imports is left to tests that start one.
"""

import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from tempfile import mkdtemp

from quantbooth import programs

__all__ = ["Forked", "server"]

IMPORTED = ["quantbooth.programs", *(f"quantbooth.commands.{name}" for name in ("calibrate", "tune", "pipeline"))]


def server() -> ForkServerContext:
    """Return the context whose processes find torch, Lightning and diffusers imported."""
    context = get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


class Forked:
    """What a test needs of `subprocess.Popen`, of a command as if typed in a folder.

    Attributes:
        pid: of the process, which leads a group of its own.
    """

    def __init__(self, folder: Path, name: str, *words: str, **environment: str) -> None:
        self.streams = [Path(mkdtemp(prefix="forked-", dir=folder.parent), stream) for stream in ("stdout", "stderr")]
        given = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self.process = server().Process(target=_work, args=(folder, given, self.streams, name, words))
        self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.process.kill()

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Return what it wrote to stdout and stderr when it has ended.

        Raises:
            TimeoutError: when it has not.
        """
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise TimeoutError
        stdout, stderr = (stream.read_text() if stream.is_file() else "" for stream in self.streams)
        return stdout, stderr


def _work(folder: Path, environment: Mapping[str, str], streams: list[Path], name: str, words: tuple[str, ...]) -> None:
    os.setsid()
    for number, stream in enumerate(streams, start=1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a pytest in the background ignores Ctrl-C
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [f"quantbooth-{name}", *words]
    programs.PROGRAMS[name]()
