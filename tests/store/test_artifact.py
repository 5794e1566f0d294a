"""Items: made once by concurrent processes, with names that are valid for folders."""

from pathlib import Path

import pytest

from quantbooth.store.store import Artifact, Store, slugify


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


def test_parts_cleared_away_by_another_process_that_ended_first_are_no_fault(tmp_path: Path) -> None:
    one = artifact(tmp_path)

    def overtaken() -> None:
        make(one)  # the other process
        raise FileNotFoundError("unfinished/rex/3.png")

    assert one.get_or_make(overtaken) == one.require()


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
