"""How malloc keeps freed memory: settings that glibc reads when a process starts, so that a command starts once more.

glibc cuts an aligned block, as every tensor on the CPU is, out of a larger one. The pieces beside it, below 100 bytes,
go to caches of small blocks, are given to small objects, and keep the freed block from being whole again: the next
tensor of the same size takes new memory. experiments/planning.md has what training steps need with and without them.
"""

import os
import sys
import threading
from pathlib import Path

__all__ = ["SETTINGS", "VARIABLE", "restart_with_settings", "settings"]

VARIABLE = "GLIBC_TUNABLES"
SETTINGS = {
    "glibc.malloc.tcache_count": 0,
    "glibc.malloc.mxfast": 0,
    "glibc.malloc.hugetlb": 1,  # asks for large pages, so that memory from the system costs less time
}


def restart_with_settings() -> None:
    """Start this command again in its own place with SETTINGS, where that has not been done.

    Nothing is done without glibc, where VARIABLE is set already, and in a process of another program: a test, a
    notebook, which has threads, a debugger or a coverage tool, which would lose what it knows.
    """
    if VARIABLE in os.environ or not _has_glibc() or not _is_command() or _is_watched():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.environ[VARIABLE] = settings()
    os.execv(sys.executable, sys.orig_argv)  # the very command that was typed


def settings() -> str:
    """Return SETTINGS as glibc reads them."""
    return ":".join(f"{name}={value}" for name, value in SETTINGS.items())


def _has_glibc() -> bool:
    try:
        return sys.platform == "linux" and bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (OSError, ValueError):
        return False


def _is_watched() -> bool:
    return sys.gettrace() is not None or sys.getprofile() is not None or threading.active_count() > 1


def _is_command() -> bool:
    main = sys.modules["__main__"]
    named = main.__spec__.name if main.__spec__ else Path(getattr(main, "__file__", "") or "").name
    return named.startswith("quantbooth")
