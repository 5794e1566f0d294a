"""Which process makes an artifact: the one that holds a lease on its lock file, renewed as long as it lives.

filelock records the owner's host, PID namespace, boot, PID and start time. An owner of this host that has died is
replaced at once. One that cannot be seen from here, on another host or in another container, is replaced when its lease
was not renewed for LEASE seconds of the waiter's own clock, so clocks need not agree.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import LeaseCompromise, SoftFileLease, Timeout

from quantbooth.runtime.errors import UserError
from quantbooth.runtime.progress import say

__all__ = ["owner_of", "owning", "owning_if_free"]

LEASE = 120.0
"""Seconds without a sign of life after which an owner that cannot be seen is taken for dead."""
POLL = 0.5


@contextmanager
def owning(lock: Path, what: str, since: Callable[[], str] = str) -> Iterator[bool]:
    """Own a lock within the block, after waiting for its owner; yield whether this process did not own it before.

    Args:
        lock: the lock file; its folder must exist.
        what: what is made, for the line that is printed while waiting.
        since: returns since when, for this line; empty where that is not known.

    Raises:
        UserError: when another process took it over within the block: this one was stopped for more than LEASE seconds,
            or the folder was removed.
    """
    lease = _lease(lock)
    first = not lease.is_locked
    _wait(lease, what, since)
    try:
        yield first
    except BaseException as error:
        if lease.compromise is not None:
            raise UserError(
                f"{what} is no longer this process's: {lock} {_REASONS[lease.compromise.reason]}; run the same "
                "command again, and finished parts are used"
            ) from error
        raise
    finally:
        lease.release()


@contextmanager
def owning_if_free(lock: Path) -> Iterator[bool]:
    """Own a lock within the block and yield True, or yield False where a process has it, also this one."""
    lease = _lease(lock)
    if lease.is_locked:
        yield False
        return
    try:
        lease.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lease.release()


def owner_of(lock: Path) -> str:
    """Return the owner of a lock in words; empty where there is none."""
    owner = _lease(lock).owner
    return "" if owner is None else f"process {owner.pid} on {owner.hostname.partition('?pidns-')[0]}"


_REASONS = {
    "marker-missing": "was removed",
    "owner-changed": "was taken over by another process, because this one was stopped",
    "refresh-failed": "could not be written",
    "evicted": "was taken over by another process, because this one was stopped",
}


def _wait(lease: SoftFileLease, what: str, since: Callable[[], str]) -> None:
    """Acquire a lease; print a line for each owner that is waited for."""
    said = ""
    while True:
        with suppress(Timeout):
            lease.acquire(timeout=0)
            return
        if (owner := owner_of(Path(lease.lock_file))) not in ("", said):
            began = f" since {since()}" if since() else ""
            say(f"waiting for {what}: {owner} makes it{began}")
            said = owner
        time.sleep(POLL)


def _lease(lock: Path) -> SoftFileLease:
    """Return the lease of a lock file, of which a process has one, so that a block may be inside another."""
    return SoftFileLease(str(lock), lease_duration=LEASE, on_compromise=_stop, thread_local=False, is_singleton=True)


def _stop(_: LeaseCompromise) -> None:
    """End the work of the main thread, which another process does from now on; called in the heartbeat's thread."""
    main = threading.main_thread().ident
    if main is not None and callable(signal.getsignal(signal.SIGTERM)):
        signal.pthread_kill(main, signal.SIGTERM)
