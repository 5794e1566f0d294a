"""A folder of photos: a subject with or without masks, or a refusal with the name of the file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from quantbooth.data.photo_folder import mask_files, photo_files
from quantbooth.data.photos import photo_subject
from quantbooth.data.prompts import prompts_for
from quantbooth.data.subjects import Subject
from quantbooth.runtime.errors import UserError

SIDE = 32


def plain(mode: str, colour: object) -> Image.Image:
    return Image.new(mode, (SIDE, SIDE), colour)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, value in enumerate((60, 120, 180)):
        plain("RGB", (value, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def subject(folder: Path, **changes: object) -> Subject:
    options: dict[str, object] = {"class_word": "dog", "identifier": "sks", "live": True, "resolution": SIDE}
    return photo_subject(str(folder), **{**options, **changes})  # type: ignore[arg-type]


def test_masks_hidden_files_and_other_files_are_no_photos(folder: Path) -> None:
    plain("L", 255).save(folder / "0_mask.png")
    (folder / "._0.png").write_bytes(b"resource fork")
    (folder / "notes.md").write_text("a dog")
    plain("RGB", 0).save(folder / "3.JPG")
    assert [file.name for file in photo_files(folder)] == ["0.png", "1.png", "2.png", "3.JPG"]


def test_a_folder_of_photos_is_a_subject(folder: Path) -> None:
    rex = subject(folder)
    assert (rex.name, rex.class_word, rex.identifier) == (folder.name, "dog", "sks")
    assert rex.photos.shape == (3, 3, SIDE, SIDE)
    assert torch.equal(rex.photos, rex.references)
    assert rex.photos[:, 0, 0, 0].mul(255).round().tolist() == [60, 120, 180]
    assert rex.prompts == prompts_for(live=True)
    assert subject(folder, live=False).prompts == prompts_for(live=False)


def test_own_prompts_take_the_place_of_the_published_ones(folder: Path) -> None:
    assert [prompt.template for prompt in subject(folder, templates=["a {} at sea"]).prompts] == ["a {} at sea"]


def test_the_fingerprint_changes_with_whatever_is_learned_or_asked(folder: Path) -> None:
    before = subject(folder)
    changes: list[dict[str, object]] = [
        {"class_word": "cat"},
        {"identifier": "zwx"},
        {"live": False},
        {"resolution": 16},
        {"templates": ["a {}"]},
        {"fit": "pad"},
    ]
    others = {subject(folder, **change).fingerprint for change in changes}
    assert len(others | {before.fingerprint}) == 7
    assert subject(folder, name="other").fingerprint == before.fingerprint
    plain("RGB", (61, 0, 0)).save(folder / "0.png")
    assert subject(folder).fingerprint not in others | {before.fingerprint}


def masks(folder: Path, *names: str) -> None:
    for name in names:
        picture = plain("L", 0)
        picture.paste(255, (0, 0, SIDE // 2, SIDE))
        picture.save(folder / f"{name}_mask.png")


def test_masks_beside_photos_tell_where_the_subject_is(folder: Path) -> None:
    before = subject(folder)
    masks(folder, "0", "1", "2")
    rex = subject(folder)
    assert before.reference_masks is None
    assert rex.reference_masks is not None and rex.reference_masks.shape == (3, SIDE, SIDE)
    assert rex.reference_masks.any(dim=1).sum(dim=1).tolist() == [SIDE // 2] * 3
    assert torch.equal(rex.photos, before.photos)
    plain("L", 255).save(folder / "1_mask.png")
    assert len({before.fingerprint, rex.fingerprint, subject(folder).fingerprint}) == 3


def test_masks_are_in_the_order_of_their_photos(folder: Path) -> None:
    masks(folder, "2", "0", "1")
    assert [mask.name for mask in mask_files(photo_files(folder))] == ["0_mask.png", "1_mask.png", "2_mask.png"]


def test_masks_of_some_photos_only_are_refused_by_the_others_names(folder: Path) -> None:
    masks(folder, "1")
    with pytest.raises(
        UserError, match=rf"^all photos need a mask, or none of them: 0\.png, 2\.png in {folder} have none;"
    ):
        subject(folder)


def test_a_mask_without_a_photo_is_refused_by_its_name(folder: Path) -> None:
    masks(folder, "rex")
    with pytest.raises(UserError, match=rf"^the mask {folder}/rex_mask\.png has no photo; name it after one"):
        subject(folder)


def test_a_home_folder_may_be_written_short(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert len(photo_subject(f"~/{folder.name}", "dog", "sks", True, SIDE).photos) == 3


def broken_files(folder: Path) -> dict[str, Callable[[Path], object]]:
    whole = (folder / "0.png").read_bytes()
    return {
        "text.png": lambda file: file.write_text("this is no picture"),
        "empty.jpg": lambda file: file.touch(),
        "heic.jpg": lambda file: file.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        "script.jpg": lambda file: file.write_bytes(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
        ),
        "nan.tif": lambda file: Image.fromarray(np.full((SIDE, SIDE), np.nan, dtype=np.float32)).save(file),
        "cut.png": lambda file: file.write_bytes(whole[: len(whole) // 2]),
        "folder.png": lambda file: file.mkdir(),
        "small.png": lambda file: plain("RGB", 0).resize((15, 40)).save(file),
    }


@pytest.mark.parametrize(
    "name", ["text.png", "empty.jpg", "heic.jpg", "script.jpg", "nan.tif", "cut.png", "folder.png", "small.png"]
)
def test_one_bad_photo_among_good_ones_is_refused_by_its_name_in_one_line(folder: Path, name: str) -> None:
    broken_files(folder)[name](folder / name)
    with pytest.raises(UserError) as caught:
        subject(folder)
    message = str(caught.value)
    assert str(folder / name) in message
    assert "\n" not in message
    expected = "is 15x40 pixels; at least 16 are needed" if name == "small.png" else "remove it or save it again"
    assert message.endswith(expected)


def test_a_missing_or_empty_folder_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=rf"^subject\.path must be a folder of photos, found no folder at {tmp_path}/no$"
    ):
        subject(tmp_path / "no")
    with pytest.raises(UserError, match=rf"^no photos in {tmp_path}; put 3 to 6 pictures \(\.jpg, .*\) there$"):
        subject(tmp_path)


@pytest.mark.parametrize("count", [1, 30])
def test_one_photo_or_many_are_a_subject_too(tmp_path: Path, count: int) -> None:
    for number in range(count):
        plain("RGB", (number, 0, 0)).save(tmp_path / f"{number}.png")
    assert len(subject(tmp_path).photos) == count
