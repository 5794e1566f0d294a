"""Atomic writes of folders."""

import errno
from pathlib import Path

import pytest

from quantbooth.runtime.errors import UserError
from quantbooth.store.files import atomic_folder


def test_a_folder_appears_when_all_is_in_it(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "here"
    with atomic_folder(place, "x.folder") as folder:
        (folder / "a").write_text("b")
        assert not place.exists()
    assert (place / "a").read_text() == "b"
    assert [path.name for path in place.parent.iterdir()] == ["here"]


def test_nothing_remains_of_what_was_not_finished(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="halfway"), atomic_folder(tmp_path / "here", "x.folder") as folder:
        (folder / "a").write_text("b")
        raise RuntimeError("halfway")
    assert list(tmp_path.iterdir()) == []


def test_a_taken_place_is_refused_and_an_empty_one_is_taken(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with atomic_folder(tmp_path / "here", "x.folder") as folder:
        (folder / "a").write_text("b")
    with (
        pytest.raises(UserError, match=r"/here is there already; remove it, or choose another x\.folder$"),
        atomic_folder(tmp_path / "here", "x.folder"),
    ):
        raise AssertionError("the block must not begin")
    assert (tmp_path / "here" / "a").read_text() == "b"


def test_a_full_disk_names_the_folder_on_it(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, atomic_folder(tmp_path / "here", "x.folder"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_beside_a_folder_goes(tmp_path: Path) -> None:
    (tmp_path / ".here.abcdef01.partial" / "here").mkdir(parents=True)
    with atomic_folder(tmp_path / "here", "x.folder"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
