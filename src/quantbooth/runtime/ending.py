"""How a command ends: one line on stderr and an exit code, whatever ends it.

0 done; 2 user error or a limit of the machine; 130 Ctrl-C; 141 standard output was closed (`| head -1`), no line;
143 SIGTERM or SIGUSR1; 1 bug, with traceback. A sweep with failed jobs ends as its worst one. QUANTBOOTH_DEBUG=1 shows
the traceback of user errors too.
"""

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Callable

from quantbooth.runtime.explain import explain, is_mistake
from quantbooth.runtime.signals import TERMINATED, Terminated, signals_end_the_process

__all__ = ["ended", "said"]

CLOSED = 141
"""128 + SIGPIPE."""


def ended(run: Callable[[], int], config_name: str | None = None) -> int:
    """Run a command and return its exit code.

    Raises:
        Exception: a bug.
    """
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by the shell: >&-
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115
    try:
        with signals_end_the_process():
            return _flushed(_code_of(run, config_name))
    except BrokenPipeError:
        _discard_output()
        return CLOSED


def _code_of(run: Callable[[], int], config_name: str | None) -> int:
    try:
        return run()
    except KeyboardInterrupt:
        return _interrupted()
    except Terminated as stop:
        said(f"ended by {stop.signal.name}; finished work is kept, and the same command resumes")
        return TERMINATED
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit code 1
            return _interrupted()
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BrokenPipeError:
        raise
    except Exception as error:
        if not is_mistake(error):
            raise
        if os.environ.get("QUANTBOOTH_DEBUG") == "1":
            traceback.print_exception(error)
        said(explain(error, config_name))
        return 2


def _flushed(code: int) -> int:
    """Write what is left of standard output, which may fail only now."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        said(f"standard output cannot be written: {os.strerror(error.errno or errno.EIO)}")
        return code or 2
    return code


def _discard_output() -> None:
    """Let Python write the rest of standard output nowhere when it exits."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _interrupted() -> int:
    said("interrupted; finished work is kept, and the same command resumes")
    return 130


def said(lines: str) -> None:
    """Print lines on stderr, if it can be written."""
    with contextlib.suppress(OSError):
        sys.stderr.write("".join(f"quantbooth: {line}\n" for line in lines.split("\n")))
