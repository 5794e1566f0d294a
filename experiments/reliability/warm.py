"""Running tests in forks of a warm process: libraries are imported once, the package itself anew in every fork.

The tests run on a copy of the repository, into which mistakes are planted, so nothing here is ever changed.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["Hits", "copy_of", "killer", "planted", "record", "warm_up"]

ROOT = Path(__file__).parents[2]
OWN = ("quantbooth", "tests", "experiments", "conftest", "__main__", "_pytest", "pytest", "shape_checker", "stderr")
CHUNK = 1 << 16
EMPTY = 5
"""Exit code of pytest without a test."""
CHAIN = 10.0
"""Seconds that a long chain is taken to need."""

Hits = dict[str, dict[str, Any]]
"""Test -> its seconds, and the functions it entered as "file function"."""


def copy_of(place: Path) -> Path:
    """Copy the files that git tracks, or would track, to a place; return it."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    for file in {*place.rglob("*.py")} - {place / name for name in names if name}:
        file.unlink()
    for name in filter(None, names):
        if (ROOT / name).is_file() and not _same(ROOT / name, place / name):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)
    return place


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()


@contextlib.contextmanager
def planted(file: Path, text: bytes) -> Iterator[None]:
    """Have another text in a file inside the block."""
    old, stat = file.read_bytes(), file.stat()
    file.write_bytes(text)
    os.utime(file, (time.time(), time.time() + 1000))  # no bytecode of the true text is taken for this one's
    try:
        yield
    finally:
        file.write_bytes(old)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def warm_up(copy: Path) -> None:
    """Import in this process what the tests import, except what mistakes are planted in."""
    answer = _forked(lambda: _modules(copy), copy / "warm.log", 300)
    for name in answer or []:
        with contextlib.suppress(Exception):
            import_module(name)


def record(copy: Path, file: str) -> Hits:
    """Run the tests of a file; return for each its seconds and the functions of the package that it entered.

    Long chains are listed only: following them would take minutes.
    """
    notes = _Recorder(copy / "src" / "quantbooth")
    command = ["-m", "not slow", "-p", "no:cacheprovider", file]
    answer = _forked(lambda: [_pytest(copy, command, notes), notes.hits], copy / "record.log", 600)
    return dict(answer[1]) if answer else {}


def killer(copy: Path, tests: Sequence[str], seconds: float) -> str | None:
    """Run tests in this order until one fails; return its name, "time" past the limit, None if all pass."""
    order = _Order(tests)
    files = sorted({test.partition("::")[0] for test in tests})

    def work() -> list[Any]:
        sys.dont_write_bytecode = True
        code = _pytest(copy, ["-x", "-m", "", "-p", "no:cacheprovider", *files], order)
        return [code, order.failed]

    found = _forked(work, copy / "mutant.log", seconds)
    if found is None:
        return "time"
    code, failed = found
    if code == EMPTY:
        raise RuntimeError(f"none of these tests was found: {', '.join(tests[:3])}")
    return str(failed or f"exit {code}") if code else None


def _pytest(copy: Path, options: Sequence[str], *plugins: object) -> int:
    import pytest  # noqa: PLC0415  # in the fork only

    return int(pytest.main(["-q", "-n", "0", "--rootdir", str(copy), *options], plugins=plugins))


def _modules(copy: Path) -> list[str]:
    """Return the libraries' modules that the collection of all tests imports."""
    before = set(sys.modules)
    _pytest(copy, ["--collect-only", "-m", "", "tests"])
    new = [name for name in sys.modules if name not in before]
    return [name for name in new if name.split(".")[0] not in OWN and not name.split(".")[0].startswith("quantbooth")]


def _forked(work: Callable[[], Any], log: Path, seconds: float) -> Any:
    """Return what a function returns in a fork of this process, as JSON; None past the limit."""
    reads, writes = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reads)
        _answer(work, log, writes)
    os.close(writes)
    text, end = b"", time.monotonic() + seconds
    while not text.endswith(b"\n") and select.select([reads], [], [], max(0, end - time.monotonic()))[0]:
        if not (piece := os.read(reads, CHUNK)):
            break
        text += piece
    os.close(reads)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return json.loads(text) if text.endswith(b"\n") else None


def _answer(work: Callable[[], Any], log: Path, writes: int) -> None:
    """Run in the fork: never returns."""
    os.setsid()
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        answer = json.dumps(work()).encode() + b"\n"
        while answer:
            answer = answer[os.write(writes, answer) :]
    finally:
        sys.stdout.flush()
        os._exit(0)


class _Order:
    """Keeps the tests that were asked for, in that order, and notes the first that fails."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.places = {test: place for place, test in enumerate(tests)}
        self.failed: str | None = None

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted((one for one in items if one.nodeid in self.places), key=lambda one: self.places[one.nodeid])

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and self.failed is None:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and self.failed is None:
            self.failed = f"import of {report.nodeid}"


class _Recorder:
    """Notes the functions of the package that each test enters, its fixtures included."""

    def __init__(self, package: Path) -> None:
        self.prefix = f"{package}/"
        self.hits: Hits = {}
        self.failed: set[str] = set()
        self.known: dict[int, tuple[Any, str | None]] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        chains = [item for item in items if item.get_closest_marker("chain")]
        self.hits = {item.nodeid: {"seconds": CHAIN, "entered": []} for item in chains}
        items[:] = [item for item in items if item not in chains]

    def pytest_runtest_protocol(self, item: Any) -> None:
        self.now, self.began = set[str](), time.perf_counter()
        sys.settrace(self._call)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.add(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        sys.settrace(None)
        if nodeid not in self.failed:  # a test that fails without a mistake sees none
            self.hits[nodeid] = {"seconds": round(time.perf_counter() - self.began, 3), "entered": sorted(self.now)}

    def _call(self, frame: Any, event: str, arg: Any) -> None:
        code = frame.f_code
        if id(code) not in self.known:  # its own hash is slow
            own = code.co_filename.startswith(self.prefix)
            function = code.co_qualname.partition(".<locals>")[0]
            self.known[id(code)] = code, f"{code.co_filename[len(self.prefix) :]} {function}" if own else None
        if (name := self.known[id(code)][1]) is not None:
            self.now.add(name)
