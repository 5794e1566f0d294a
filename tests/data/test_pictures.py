"""Reading pictures: every common format, and refusal of everything else with the name of the file."""

import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from quantbooth.data.photos import FITS, read_mask, read_photo
from quantbooth.runtime.errors import UserError

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


def test_a_truncated_jpeg_is_refused(tmp_path: Path) -> None:
    gradient().resize((600, 400)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:2000])
    with pytest.raises(UserError, match=r"cannot read the photo .*cut\.jpg: "):
        read_photo(tmp_path / "cut.jpg", SIDE)


def test_a_picture_too_large_to_be_safe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain("RGB", 0).save(tmp_path / "0.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"0\.png: it has over 0\.0002 megapixels; save it smaller$"):
        read_photo(tmp_path / "0.png", SIDE)


def test_a_large_photo_is_read_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns from one times its limit on and refuses from two times on; phones lie between."""
    plain("RGB", (255, 0, 0)).save(tmp_path / "photo.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIDE * SIDE - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_photo(tmp_path / "photo.png", 16)[:, 3, 3].tolist() == [1, 0, 0]


def test_what_only_bears_the_name_of_a_photo_is_told_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("this is no picture")
    with pytest.raises(
        UserError, match=r"photo\.jpg: it is no JPEG, PNG, WebP, BMP, TIFF or GIF; remove it or save it"
    ):
        read_photo(tmp_path / "photo.jpg", SIDE)


def test_damaged_tags_do_not_hinder(tmp_path: Path) -> None:
    plain("RGB", (255, 0, 0)).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    tags = b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\1" * 12
    torn = whole[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(tags)) + tags + whole[2:]
    (tmp_path / "photo.jpg").write_bytes(torn)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(read_photo(tmp_path / "photo.jpg", 16), read_photo(tmp_path / "whole.jpg", 16))


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_an_animation_is_refused_by_its_name(tmp_path: Path, suffix: str) -> None:
    frames = [plain("RGB", (value, 0, 0)) for value in (0, 99, 255)]
    frames[0].save(tmp_path / f"moving.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match=rf"^the photo .*moving\.{suffix} is animated or has 3 pages; save the one"):
        read_photo(tmp_path / f"moving.{suffix}", SIDE)


def test_a_phones_photo_with_its_depth_behind_it_is_the_photo(tmp_path: Path) -> None:
    plain("RGB", (255, 0, 0)).save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[plain("RGB", 0)])
    with Image.open(tmp_path / "phone.jpg") as opened:
        assert (opened.format, getattr(opened, "n_frames", 0)) == ("MPO", 2)
    assert read_photo(tmp_path / "phone.jpg", 16)[:, 3, 3].round().tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("size", "resolution", "reason"),
    [
        ((1, 1), 32, "is 1x1 pixels; at least 16 are needed"),
        ((20000, 20), 32, "is 20000x20 pixels, over 8 times as long as wide; cut it to what shows the subject"),
        ((20, 161), 32, "is 20x161 pixels, over 8 times as long as wide; cut it to what shows the subject"),
        ((127, 600), 512, "is 127x600 pixels; at least 128 are needed"),
    ],
)
@pytest.mark.parametrize("fit", FITS)
def test_a_photo_that_no_square_can_show_is_refused(
    tmp_path: Path, size: tuple[int, int], resolution: int, reason: str, fit: str
) -> None:
    Image.new("RGB", size).save(tmp_path / "photo.png")
    with pytest.raises(UserError) as caught:
        read_photo(tmp_path / "photo.png", resolution, fit)
    assert str(caught.value) == f"the photo {tmp_path / 'photo.png'} {reason}"


def test_a_photo_may_be_enlarged_four_times_and_be_eight_times_as_long_as_wide(tmp_path: Path) -> None:
    for size, resolution in (((128, 128), 512), ((160, 20), 32)):
        Image.new("RGB", size, "red").save(tmp_path / "photo.png")
        assert read_photo(tmp_path / "photo.png", resolution).shape == (3, resolution, resolution)


@pytest.fixture
def thirds(tmp_path: Path) -> Path:
    """Three squares side by side: red, green, blue; a mask of the red one beside it."""
    Image.fromarray(np.repeat(np.eye(3, dtype=np.uint8) * 255, 20, axis=0)[None].repeat(20, axis=0)).save(
        tmp_path / "photo.png"
    )
    mask_of(slice(0, 20)).save(tmp_path / "photo_mask.png")
    return tmp_path / "photo.png"


def mask_of(columns: slice) -> Image.Image:
    values = np.zeros((20, 60), dtype=np.uint8)
    values[:, columns] = 255
    return Image.fromarray(values)


def middle(file: Path, fit: str) -> list[list[float]]:
    """The colours of the middle row, at its ends and in its middle, and of the middle of the first row."""
    read = read_photo(file, 60, fit)
    return [read[:, 30, 2].tolist(), read[:, 30, 30].tolist(), read[:, 30, 57].tolist(), read[:, 2, 30].tolist()]


def test_each_fit_does_what_it_says_with_a_wide_photo(thirds: Path) -> None:
    red, green, blue, white = [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]
    assert middle(thirds, "crop") == [green, green, green, green]
    assert middle(thirds, "pad") == [red, green, blue, white]
    assert middle(thirds, "squash") == [red, green, blue, green]


@pytest.mark.parametrize(("fit", "rows"), [("pad", slice(20, 40)), ("squash", slice(0, 60))])
def test_a_mask_lies_where_its_photo_does(thirds: Path, fit: str, rows: slice) -> None:
    mask = read_mask(thirds.with_name("photo_mask.png"), thirds, 60, fit)
    expected = torch.zeros(60, 60, dtype=torch.bool)
    expected[rows, :20] = True
    assert torch.equal(mask, expected)


def test_a_mask_is_what_is_lighter_than_half_whatever_its_kind_and_size(thirds: Path) -> None:
    drawn = mask_of(slice(25, 35))
    levels = drawn.point(lambda value: 128 if value else 127)
    clear = Image.merge("LA", (Image.new("L", drawn.size, 255), drawn))
    kinds = (drawn, drawn.convert("1"), drawn.convert("RGB"), drawn.convert("P"), levels, clear)
    for kind in (*kinds, drawn.resize((120, 40), Image.Resampling.NEAREST)):
        kind.save(thirds.with_name("photo_mask.png"))
        mask = read_mask(thirds.with_name("photo_mask.png"), thirds, 20)
        assert mask.any(dim=0).nonzero()[[0, -1], 0].tolist() == [5, 14]
        assert mask.sum() == 10 * 20


def test_a_mask_is_drawn_on_the_photo_as_it_is_seen(tmp_path: Path) -> None:
    """The camera was held upright: the file lies on its side, the photo and its mask do not."""
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.new("RGB", (60, 20)).save(tmp_path / "photo.png", exif=tag)
    mask_of(slice(0, 20)).transpose(Image.Transpose.ROTATE_270).save(tmp_path / "photo_mask.png")
    mask = read_mask(tmp_path / "photo_mask.png", tmp_path / "photo.png", 60, "pad")
    assert mask.any(dim=1).nonzero()[[0, -1], 0].tolist() == [0, 19]
    mask_of(slice(0, 20)).save(tmp_path / "photo_mask.png")
    with pytest.raises(
        UserError, match=r"_mask\.png has another shape .* 60x20 pixels, the photo photo\.png 20x60 when"
    ):
        read_mask(tmp_path / "photo_mask.png", tmp_path / "photo.png", 60)


@pytest.mark.parametrize(("columns", "reason"), [(slice(0, 0), "it is empty"), (slice(0, 20), "set subject.fit=pad")])
def test_a_mask_that_shows_nothing_of_the_subject_is_refused(thirds: Path, columns: slice, reason: str) -> None:
    mask_of(columns).save(thirds.with_name("photo_mask.png"))
    with pytest.raises(UserError, match=rf"^the mask .*photo_mask\.png shows nothing of the subject: .*{reason}$"):
        read_mask(thirds.with_name("photo_mask.png"), thirds, 20)
