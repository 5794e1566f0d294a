"""Atomic writes of folders."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from quantbooth.runtime.errors import UserError
from quantbooth.store.files import atomic_folder, owning_folder, require_place, write_whole


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


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "new" / "page.md"
    write_whole(file, "före\n")
    assert file.read_bytes() == "före\n".encode()

    def half(path: Path, content: bytes) -> None:
        with path.open("wb") as stream:
            stream.write(content[:2])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left"):
        write_whole(file, b"another")
    assert file.read_text(encoding="utf-8") == "före\n"
    assert list(file.parent.iterdir()) == [file]


def test_a_folder_that_another_process_makes_is_waited_for(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from quantbooth.store.files import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1]), 'x') as draft: time.sleep(1); (draft / 'a').write_text('theirs')\n"
    )
    other = subprocess.Popen([sys.executable, "-c", program, tmp_path / "here"])
    end = time.monotonic() + 60
    while not (tmp_path / ".here.lock").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    with owning_folder(tmp_path / "here"):
        assert (tmp_path / "here" / "a").read_text() == "theirs"
    assert other.wait(60) == 0


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to a device"])
def test_only_a_file_is_written_over(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "page.md"
    make: dict[str, Callable[[Path], object]]
    make = {"pipe": os.mkfifo, "folder": os.mkdir, "link to a device": lambda place: place.symlink_to(os.devnull)}
    make[kind](place)
    before = place.lstat().st_ino
    for write in (write_whole, require_place):
        with pytest.raises(UserError, match=str(place)):
            write(place, "x.document")
    assert place.lstat().st_ino == before
    assert list(tmp_path.iterdir()) == [place]


def test_a_place_below_a_file_is_told_before_work(tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    with pytest.raises(UserError, match=f"^x.folder must lie in a folder, found {tmp_path}/notes"):
        require_place(tmp_path / "notes" / "new" / "page.md", "x.folder")
    require_place(tmp_path / "new" / "page.md", "x.folder")
    require_place(tmp_path / "notes", "x.folder")
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]
