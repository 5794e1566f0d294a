"""Photos as people have them: every common kind read right, everything else refused by its file's name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from quantbooth.data.photos import photo_files, photo_subject, read_photo
from quantbooth.data.prompts import prompts_for
from quantbooth.data.subjects import Subject
from quantbooth.errors import UserError

RED, GREY, WHITE, BLACK = (1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
SIDE = 32


def plain(mode: str, colour: object) -> Image.Image:
    return Image.new(mode, (SIDE, SIDE), colour)  # type: ignore[arg-type]


def palette(colour: tuple[int, int, int], **_: object) -> Image.Image:
    picture = plain("P", 7)
    picture.putpalette([0, 0, 0] * 7 + list(colour))
    return picture


def deep(value: float, dtype: type) -> Image.Image:
    return Image.fromarray(np.full((SIDE, SIDE), value, dtype=dtype))


def gradient() -> Image.Image:
    """Black on the left to red on the right, blue below."""
    values = np.zeros((40, 60, 3), dtype=np.uint8)
    values[:, :, 0] = np.linspace(0, 255, 60)[None]
    values[:, :, 2] = np.linspace(0, 255, 40)[:, None]
    return Image.fromarray(values)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, value in enumerate((60, 120, 180)):
        plain("RGB", (value, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def subject(folder: Path, **changes: object) -> Subject:
    options: dict[str, object] = {"class_word": "dog", "identifier": "sks", "live": True, "resolution": SIDE}
    return photo_subject(str(folder), **{**options, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "suffix", "colour"),
    [
        (lambda: plain("RGB", (255, 0, 0)), "png", RED),
        (lambda: plain("RGBA", (255, 0, 0, 255)), "png", RED),
        (lambda: plain("RGBA", (0, 0, 0, 0)), "png", WHITE),
        (lambda: plain("RGBA", (0, 0, 0, 128)), "webp", GREY),
        (lambda: plain("LA", (0, 0)), "png", WHITE),
        (lambda: plain("L", 128), "jpg", GREY),
        (lambda: plain("1", 1), "png", WHITE),
        (lambda: palette((255, 0, 0)), "png", RED),
        (lambda: plain("CMYK", (0, 255, 255, 0)), "jpg", RED),
        (lambda: plain("CMYK", (0, 255, 255, 0)), "tif", RED),
        (lambda: plain("YCbCr", (128, 128, 128)), "jpg", GREY),
        (lambda: deep(65535, np.uint16), "png", WHITE),
        (lambda: deep(32768, np.uint16), "tif", GREY),
        (lambda: deep(128, np.uint16), "png", BLACK),
        (lambda: deep(128, np.int32), "tif", GREY),
        (lambda: deep(0.5, np.float32), "tif", GREY),
        (lambda: deep(127.5, np.float32), "tif", GREY),
    ],
)
def test_every_kind_of_picture_comes_out_in_its_colour(
    tmp_path: Path, make: Callable[[], Image.Image], suffix: str, colour: tuple[float, float, float]
) -> None:
    make().save(tmp_path / f"photo.{suffix}")
    read = read_photo(tmp_path / f"photo.{suffix}", 16)
    assert read.dtype == torch.float32
    torch.testing.assert_close(read, torch.tensor(colour)[:, None, None].expand(3, 16, 16), rtol=0, atol=0.02)


@pytest.mark.parametrize(("mode", "key"), [("P", 7), ("RGB", (255, 0, 0)), ("L", 9)])
def test_a_transparent_colour_is_white(tmp_path: Path, mode: str, key: object) -> None:
    picture = palette((255, 0, 0)) if mode == "P" else plain(mode, key)
    picture.save(tmp_path / "photo.png", transparency=key)
    assert torch.equal(read_photo(tmp_path / "photo.png", 16), torch.ones(3, 16, 16))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright(tmp_path: Path, orientation: int) -> None:
    """However the camera was held, the picture is the one that was seen."""
    undo = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    held = gradient()
    for turn in undo[orientation]:
        held = held.transpose(turn)
    tag = Image.Exif()
    tag[0x0112] = orientation
    held.save(tmp_path / "photo.png", exif=tag)
    gradient().save(tmp_path / "seen.png")
    assert torch.equal(read_photo(tmp_path / "photo.png", 20), read_photo(tmp_path / "seen.png", 20))


def test_a_photo_is_cropped_around_its_centre_and_not_squeezed(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, 20:40] = 255
    Image.fromarray(wide).save(tmp_path / "photo.png")
    assert torch.equal(read_photo(tmp_path / "photo.png", 20), torch.ones(3, 20, 20))


def test_masks_hidden_files_and_other_files_are_no_photos(folder: Path) -> None:
    plain("L", 255).save(folder / "0_mask.png")
    (folder / "._0.png").write_bytes(b"resource fork")
    (folder / "notes.txt").write_text("a dog")
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
    ]
    others = {subject(folder, **change).fingerprint for change in changes}
    assert len(others | {before.fingerprint}) == 6
    assert subject(folder, name="other").fingerprint == before.fingerprint
    plain("RGB", (61, 0, 0)).save(folder / "0.png")
    assert subject(folder).fingerprint not in others | {before.fingerprint}


def test_a_home_folder_may_be_written_short(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert len(photo_subject(f"~/{folder.name}", "dog", "sks", True, SIDE).photos) == 3


def broken_files(folder: Path) -> dict[str, Callable[[Path], object]]:
    whole = (folder / "0.png").read_bytes()
    return {
        "text.png": lambda file: file.write_text("this is no picture"),
        "empty.jpg": lambda file: file.touch(),
        "cut.png": lambda file: file.write_bytes(whole[: len(whole) // 2]),
        "folder.png": lambda file: file.mkdir(),
        "small.png": lambda file: plain("RGB", 0).resize((15, 40)).save(file),
    }


@pytest.mark.parametrize("name", ["text.png", "empty.jpg", "cut.png", "folder.png", "small.png"])
def test_one_bad_photo_among_good_ones_is_refused_by_its_name_in_one_line(folder: Path, name: str) -> None:
    broken_files(folder)[name](folder / name)
    with pytest.raises(UserError) as caught:
        subject(folder)
    message = str(caught.value)
    assert str(folder / name) in message
    assert "\n" not in message
    expected = "is 15x40 pixels; at least 16 are needed" if name == "small.png" else "remove it or save it again"
    assert message.endswith(expected)


def test_a_truncated_jpeg_is_refused(tmp_path: Path) -> None:
    gradient().resize((600, 400)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:2000])
    with pytest.raises(UserError, match=r"cannot read the photo .*cut\.jpg: "):
        read_photo(tmp_path / "cut.jpg", SIDE)


def test_a_picture_too_large_to_be_safe_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"cannot read the photo .*0\.png: Image size"):
        read_photo(folder / "0.png", SIDE)


def test_a_missing_or_empty_folder_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=rf"^subject\.path must be a folder of photos, found no folder at {tmp_path}/no; quantbooth-data dream",
    ):
        subject(tmp_path / "no")
    with pytest.raises(UserError, match=rf"^no photos in {tmp_path}; put 3 to 6 pictures \(\.jpg, .*\) there$"):
        subject(tmp_path)


def test_a_missing_class_word_is_refused_with_an_example(folder: Path) -> None:
    for missing in ("", None):
        with pytest.raises(UserError, match="for example subject.class_word=dog"):
            subject(folder, class_word=missing)


def marked(folder: Path, name: str, box: tuple[int, int, int, int], size: tuple[int, int] = (SIDE, SIDE)) -> None:
    """A mask that is white within left, top, right, bottom."""
    mask = Image.new("L", size, 0)
    mask.paste(255, box)
    mask.save(folder / f"{name}_mask.png")


def test_masks_beside_all_photos_go_the_way_of_their_photos(folder: Path) -> None:
    plain("RGB", (255, 0, 0)).resize((2 * SIDE, SIDE)).save(folder / "3.png")
    for number in range(3):
        marked(folder, str(number), (4, 8, 12, 16))
    marked(folder, "3", (SIDE // 2, 0, SIDE, SIDE), (2 * SIDE, SIDE))
    rex = subject(folder)
    assert rex.masks is not None
    assert rex.masks.shape == (4, SIDE, SIDE)
    expected = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    expected[8:16, 4:12] = True
    assert torch.equal(rex.masks[0], expected)
    assert rex.masks[3, :, : SIDE // 2 - 1].all()
    assert not rex.masks[3, :, SIDE // 2 + 1 :].any()
    padded = subject(folder, fit="pad").masks
    assert padded is not None
    assert torch.equal(padded[3].nonzero().aminmax(dim=0).min, torch.tensor([SIDE // 4, SIDE // 4]))


def test_a_mask_decides_the_fingerprint(folder: Path) -> None:
    prints = [subject(folder).fingerprint]
    for right in (8, 9):
        for number in range(3):
            marked(folder, str(number), (0, 0, right, 8))
        prints.append(subject(folder).fingerprint)
    assert len(set(prints)) == 3


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda f: (f / "1_mask.png").unlink(),
            r"1\.png has no mask 1_mask\.png, others have one; give all",
        ),
        (lambda f: marked(f, "9", (0, 0, 9, 9)), r"the mask .*9_mask\.png has no photo 9\.\*; remove or rename it$"),
        (lambda f: marked(f, "1", (0, 0, 9, 9), (9, 9)), r"1_mask\.png is 9x9 pixels, its photo 32x32$"),
        (lambda f: marked(f, "1", (0, 0, 0, 0)), r"1_mask\.png marks nothing of what is left of its photo; white is"),
        (lambda f: (f / "1_mask.png").write_text("no"), r"^cannot read the mask .*1_mask\.png: "),
    ],
)
def test_masks_that_cannot_be_used_are_refused_by_name(
    folder: Path, spoil: Callable[[Path], object], told: str
) -> None:
    for number in range(3):
        marked(folder, str(number), (4, 8, 12, 16))
    spoil(folder)
    with pytest.raises(UserError, match=told):
        subject(folder)


def test_a_photo_can_be_kept_whole_on_white(tmp_path: Path) -> None:
    Image.new("RGB", (60, 20), (255, 0, 0)).save(tmp_path / "photo.png")
    read = read_photo(tmp_path / "photo.png", 30, "pad")
    assert read[:, :9].eq(1).all()
    assert read[:, 21:].eq(1).all()
    assert read[1:, 11:19].max() < 0.05
    with pytest.raises(UserError, match=r"^subject\.fit must be one of crop, pad, got 'squash'$"):
        subject(tmp_path, fit="squash")
    assert subject(tmp_path, fit="pad").fingerprint != subject(tmp_path).fingerprint


def test_photos_of_a_kind_that_is_not_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.HEIC").touch()
    with pytest.raises(UserError, match=r"no photos in .*, only \.heic, which must be saved as another kind first"):
        subject(tmp_path)
