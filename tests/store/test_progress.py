"""Progress: parts round-trip, unfinished ones are None, damaged ones are refused by name."""

from pathlib import Path

import pytest
import torch

from quantbooth.runtime.errors import UserError
from quantbooth.store.progress import Progress


def test_parts_come_back_as_they_were_written_until_they_are_cleared(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "work")
    assert progress.read(0) is None
    tensors = {"codes": torch.arange(6, dtype=torch.uint8).view(2, 3).t(), "error": torch.tensor(0.5)}
    progress.write(3, tensors)
    found = progress.read(3)
    assert found is not None
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert progress.read(2) is None
    assert [path.suffix for path in (tmp_path / "work").iterdir()] == [".safetensors"]
    progress.clear()
    assert not (tmp_path / "work").exists()
    progress.clear()


def test_a_part_that_was_not_written_to_its_end_is_none(tmp_path: Path) -> None:
    (tmp_path / "part-00000.partial").write_bytes(b"half")
    assert Progress(tmp_path).read(0) is None


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    (tmp_path / "part-00001.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=r"part-00001.safetensors cannot be read: .*remove it"):
        Progress(tmp_path).read(1)


def test_scratch_is_empty_at_first_and_gone_in_the_end(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "left").write_text("by a killed run")
    with Progress(tmp_path).scratch() as folder:
        assert not list(folder.iterdir())
        (folder / "tape.bin").write_text("much")
    assert not folder.exists()
