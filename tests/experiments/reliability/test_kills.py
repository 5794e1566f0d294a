"""The harness that kills commands: it counts changes of files, disturbs at the wanted one, and finds what is wrong."""

import errno
import os
import signal
from pathlib import Path

import pytest

from experiments.reliability.boundaries import Disturbance, run
from experiments.reliability.kills import Bench, cases, contents, counts


def work() -> None:
    """Make four changes of files: a folder, two files, a rename."""
    Path("made").mkdir()
    Path("made/draft").write_text("x")
    Path("made/draft").rename("made/whole")
    try:
        Path("made/more").write_text("y")
    except OSError as error:
        raise SystemExit(error.errno) from error


@pytest.fixture
def case(tmp_path: Path) -> Path:
    (tmp_path / "case").mkdir()
    return tmp_path / "case"


def test_it_counts_the_changes_of_files(case: Path) -> None:
    outcome = run(work, [], case)
    assert (outcome.code, outcome.changes) == (0, 4)
    assert sorted(contents(case)) == ["made/more", "made/whole"]


@pytest.mark.parametrize(("at", "left"), [(1, []), (2, []), (3, ["made/draft"]), (4, ["made/whole"])])
def test_it_kills_before_a_change(case: Path, at: int, left: list[str]) -> None:
    assert run(work, [], case, Disturbance("kill", at)).code == -signal.SIGKILL
    assert list(contents(case)) == left


def test_a_full_disk_stays_full_and_another_fault_comes_once(case: Path) -> None:
    assert run(work, [], case, Disturbance("ENOSPC", 4)).code == errno.ENOSPC
    assert list(contents(case)) == ["made/whole"]


def test_cases_are_spread_over_a_command_and_filled_up_with_times() -> None:
    few = list(cases(3, 2.0, kills=5, faults=2))
    assert [(one.kind, one.at) for one in few] == [
        *[("kill", 1), ("kill", 2), ("kill", 3), ("after", 0.5), ("after", 1.5)],
        *[("ENOSPC", 1), ("EIO", 3)],
    ]
    assert [one.at for one in cases(101, 2.0, kills=3, faults=0)] == [1, 51, 101]


@pytest.mark.slow
def test_commands_that_are_killed_end_with_the_files_of_undisturbed_ones(tmp_path: Path) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    bench, found = Bench(tmp_path), []
    for name in ("tune", "verify", "data"):
        whole = bench.undisturbed(name)
        found += [bench.disturbed(name, one) for one in cases(whole.changes, whole.seconds, kills=3, faults=1)]
    summary = counts(found)
    assert (summary["kills"], summary["faults"], summary["wrong"]) == (9, 3, [])
