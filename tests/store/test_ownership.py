"""Who makes an artifact: a living owner is waited for, wherever it is; a dead one is replaced, and its drafts go."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quantbooth.runtime.errors import UserError
from quantbooth.store import ownership
from quantbooth.store.drafts import lock_of
from quantbooth.store.ownership import owner_of, owning, owning_if_free
from quantbooth.store.store import Store

DIGITS = "0123456789ab"
Marker = dict[str, object]


@pytest.fixture
def here(tmp_path: Path) -> Marker:
    """The record of a living owner of this machine: the process above this one."""
    program = (
        "import sys; from filelock import SoftFileLease\n"
        f"lease = SoftFileLease(sys.argv[1], lease_duration={ownership.LEASE}); lease.acquire()\n"
        "print(open(sys.argv[1]).read())\n"
    )
    own = subprocess.run([sys.executable, "-c", program, tmp_path / "x"], capture_output=True, text=True, check=True)
    record = dict(line.split("=") for line in own.stdout.split()[1:])
    start = f"/proc/{os.getppid()}/stat"
    ticks = int(Path(start).read_text().rpartition(")")[2].split()[19])
    boot = int(record["start"]) >> 64
    return {**record, "pid": os.getppid(), "start": (boot << 64) | ticks}


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "the.lock"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that is short enough for a test."""
    monkeypatch.setattr(ownership, "LEASE", 0.6)
    monkeypatch.setattr(ownership, "POLL", 0.05)


def mark(lock: Path, record: Marker, **other: object) -> None:
    """Write the record of an owner."""
    lines = "".join(f"{key}={value}\n" for key, value in {**record, "duration": ownership.LEASE, **other}.items())
    lock.write_text(f"filelock/2\n{lines}")


def dead() -> int:
    """Return the PID of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def changed(record: Marker, what: str) -> Marker:
    start = int(str(record["start"]))
    host = str(record["host"]).partition("?")[0]
    changes: dict[str, Marker] = {
        "lives": {},
        "died": {"pid": dead()},
        "died, and its pid is another process": {"start": start - 1},
        "of an earlier boot": {"start": start ^ (1 << 70)},
        "another host": {"host": "another", "pid": dead()},
        "another container of this host": {"host": f"{host}?pidns-f1234567", "pid": dead()},
    }
    return changes[what]


CASES = {
    "lives": False,
    "died": True,
    "died, and its pid is another process": True,
    "of an earlier boot": True,
    "another host": False,
    "another container of this host": False,
}


@pytest.mark.parametrize("what", CASES)
def test_only_an_owner_that_is_known_to_have_died_is_replaced_at_once(lock: Path, here: Marker, what: str) -> None:
    mark(lock, here, **changed(here, what))
    with owning_if_free(lock) as free:
        assert free == CASES[what]
    assert lock.exists() != CASES[what]


@pytest.mark.parametrize("what", CASES)
def test_drafts_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path, here: Marker, what: str) -> None:
    store = Store(tmp_path / "store")
    draft = store.root / "scores" / f".other-{DIGITS}.20260101T000000.abcdef01.partial"
    draft.mkdir(parents=True)
    mark(lock_of(draft.parent, DIGITS), here, **changed(here, what))
    with store.writing("scores", "x", {"a": 1}, {}, {}):
        assert draft.exists() != CASES[what]


def test_a_draft_that_nobody_owns_goes_and_what_is_no_draft_stays(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    left = store.root / "scores" / f".other-{DIGITS}.20260101T000000.abcdef01.partial"
    foreign = store.root / "scores" / ".something.partial"
    for folder in (left, foreign):
        folder.mkdir(parents=True)
    with store.writing("scores", "x", {"a": 1}, {}, {}) as draft:
        assert [draft.path.exists(), left.exists(), foreign.exists()] == [True, False, True]
        with store.writing("scores", "y", {"a": 2}, {}, {}):
            assert draft.path.exists()


@pytest.mark.usefixtures("hasty")
def test_an_owner_elsewhere_is_replaced_when_it_is_silent_and_not_while_it_renews_its_lease(
    lock: Path, here: Marker, capsys: pytest.CaptureFixture[str]
) -> None:
    mark(lock, here, host="another", pid=77)
    silent = threading.Event()

    def renew() -> None:
        for _ in range(15):
            os.utime(lock)
            time.sleep(0.1)
        silent.set()

    beats = threading.Thread(target=renew)
    beats.start()
    with owning(lock, "scores x", lambda: "noon") as first:
        assert silent.is_set()
        assert first
    beats.join()
    assert capsys.readouterr().err.splitlines() == ["waiting for scores x: process 77 on another makes it since noon"]


def test_a_block_inside_a_block_owns_the_same_lock(lock: Path) -> None:
    with owning(lock, "x") as outer:
        with owning(lock, "x") as inner, owning_if_free(lock) as free:
            assert (outer, inner, free) == (True, False, False)
        assert lock.exists()
        assert owner_of(lock).startswith(f"process {os.getpid()} on ")
    assert not lock.exists()


@pytest.fixture
def ends_by_signal() -> Iterator[None]:
    def end(*_: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, end)
    yield
    signal.signal(signal.SIGTERM, before)


def taken(lock: Path) -> None:
    """Put the lock of another process in the place."""
    lock.with_name("another").write_text(lock.read_text())
    lock.with_name("another").rename(lock)


@pytest.mark.parametrize("loss", [Path.unlink, taken])
@pytest.mark.usefixtures("hasty", "ends_by_signal")
def test_a_process_that_is_no_longer_the_owner_ends_in_one_line(lock: Path, loss: Callable[[Path], None]) -> None:
    wanted = r"scores x is no longer this process's: .*the\.lock was "
    with pytest.raises(UserError, match=wanted) as caught, owning(lock, "scores x"):
        loss(lock)
        time.sleep(20)
    assert isinstance(caught.value.__cause__, SystemExit)
