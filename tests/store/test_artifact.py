"""Items: made once by concurrent processes, with names that are valid for folders."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import SoftFileLease

from quantbooth.store.ownership import LEASE
from quantbooth.store.store import Artifact, Store, make_all, slugify


def artifact(root: Path) -> Artifact:
    return Artifact(Store(root), "image_set", "rex", "quantbooth-sample", {"seed": 0})


def make(one: Artifact) -> None:
    with one.writing({}) as draft:
        (draft.path / "a.txt").write_text("made")


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    one, times = artifact(tmp_path), []

    def counted() -> None:
        times.append(1)
        make(one)

    assert one.get_or_make(counted) == one.get_or_make(counted) == one.require()
    assert times == [1]


def test_of_several_only_the_missing_are_made_and_all_are_returned(tmp_path: Path) -> None:
    several = [Artifact(Store(tmp_path), "image_set", "rex", "quantbooth-sample", {"seed": seed}) for seed in range(3)]
    make(several[1])
    asked: list[list[int]] = []

    def counted(missing: list[int]) -> None:
        asked.append(missing)
        for number in missing:
            make(several[number])

    assert make_all(several, counted) == make_all(several, counted) == [one.require() for one in several]
    assert asked == [[0, 2]]


def test_what_another_process_made_while_it_was_waited_for_is_used(tmp_path: Path) -> None:
    one = artifact(tmp_path)
    place = tmp_path / "image_set"
    place.mkdir()
    # the other process owns the artifact under another label, and finishes it a moment later
    program = (
        "import sys, time; from pathlib import Path; from quantbooth.store.store import Artifact, Store\n"
        "one = Artifact(Store(Path(sys.argv[1])), 'image_set', 'other', 'quantbooth-sample', {'seed': 0})\n"
        "with one.writing({}) as draft: (draft.path / 'a.txt').write_text('theirs'); time.sleep(1)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    end = time.monotonic() + 60
    while not list(place.glob(".*.lock")):
        assert time.monotonic() < end
        time.sleep(0.01)
    found = one.get_or_make(lambda: pytest.fail("it was made twice"))
    assert (found / "a.txt").read_text() == "theirs"
    assert found.name == one.path.name.replace("rex", "other")
    assert other.wait(60) == 0


def test_a_file_that_is_missing_for_another_reason_is(tmp_path: Path) -> None:
    def broken() -> None:
        raise FileNotFoundError("weights.safetensors")

    with pytest.raises(FileNotFoundError, match="weights"):
        artifact(tmp_path).get_or_make(broken)


@pytest.mark.parametrize(
    ("name", "kept"), [("a b/c", "a-b-c"), ("..x..", "x"), ("äö", "subject"), ("y" * 50, "y" * 40)]
)
def test_words_for_folders(name: str, kept: str) -> None:
    assert slugify(name) == kept


@pytest.mark.parametrize("lives", [False, True])
def test_what_a_process_left_that_was_killed_at_its_end_goes(tmp_path: Path, lives: bool) -> None:
    one = artifact(tmp_path)
    make(one)
    parts, lock = tmp_path / "unfinished" / one.path.name, one.path.parent / f".{one.path.name[-12:]}.lock"
    parts.mkdir(parents=True)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = SoftFileLease(str(tmp_path / "mine"), lease_duration=LEASE)
    with mine:
        text = (tmp_path / "mine").read_text()
        lock.write_text(text if lives else text.replace(f"pid={os.getpid()}", f"pid={ended.pid}"))
        one.get_or_make(lambda: pytest.fail("it was made twice"))
    assert (parts.exists(), lock.exists()) == (lives, lives)
