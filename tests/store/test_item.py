"""Items: made once by concurrent processes, with names that are valid for folders."""

from pathlib import Path

import pytest

from quantbooth.store.store import Item, Store, word


def item(root: Path) -> Item:
    return Item(Store(root), "image_set", "rex", "quantbooth-sample", {"seed": 0})


def make(one: Item) -> None:
    with one.writing({}) as draft:
        (draft.path / "a.txt").write_text("made")


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    one, times = item(tmp_path), []

    def counted() -> None:
        times.append(1)
        make(one)

    assert one.made_by(counted) == one.made_by(counted) == one.require()
    assert times == [1]


def test_parts_cleared_away_by_another_process_that_ended_first_are_no_fault(tmp_path: Path) -> None:
    one = item(tmp_path)

    def overtaken() -> None:
        make(one)  # the other process
        raise FileNotFoundError("unfinished/rex/3.png")

    assert one.made_by(overtaken) == one.require()


def test_a_file_that_is_missing_for_another_reason_is(tmp_path: Path) -> None:
    def broken() -> None:
        raise FileNotFoundError("weights.safetensors")

    with pytest.raises(FileNotFoundError, match="weights"):
        item(tmp_path).made_by(broken)


@pytest.mark.parametrize(
    ("name", "kept"), [("a b/c", "a-b-c"), ("..x..", "x"), ("äö", "subject"), ("y" * 50, "y" * 40)]
)
def test_words_for_folders(name: str, kept: str) -> None:
    assert word(name) == kept
