"""What lies in a folder of photos: read, refused by name, or left out by name; nothing without a word."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from quantbooth.data import pictures
from quantbooth.data.photo_folder import mask_files, photo_files
from quantbooth.data.photos import photo_subject, read_photo
from quantbooth.data.pictures import opened
from quantbooth.runtime.errors import UserError

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photos, in a folder of their own."""
    place = tmp_path / "rex"
    place.mkdir()
    for number in range(2):
        picture(number).save(place / f"{number}.png")
    return place


@pytest.fixture
def no_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_formats", lambda: pictures.FORMATS)


def picture(number: int) -> Image.Image:
    return Image.new("RGB", (32, 32), (100 * number, 50, 0))


@pytest.mark.parametrize(("suffix", "kind"), [("jfif", "JPEG"), ("jpe", "JPEG"), ("JPE", "JPEG"), ("gif", "GIF")])
def test_every_name_of_a_kind_that_is_read_is_learned(folder: Path, suffix: str, kind: str) -> None:
    picture(2).save(folder / f"2.{suffix}", kind)
    assert [file.name for file in photo_files(folder)] == ["0.png", "1.png", f"2.{suffix}"]
    assert read_photo(folder / f"2.{suffix}", 16)[0].mean() > 0.7


def test_heic_is_read_where_pillow_heif_is(folder: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(picture(2)).save(folder / "IMG_2.HEIC", quality=90)
    assert photo_files(folder)[-1].name == "IMG_2.HEIC"
    torch.testing.assert_close(
        read_photo(folder / "IMG_2.HEIC", 16)[:, 0, 0], torch.tensor([200, 50, 0]) / 255, atol=0.03, rtol=0
    )


@pytest.mark.usefixtures("no_heif")
def test_heic_names_what_reads_it(folder: Path) -> None:
    (folder / "IMG_2.HEIC").write_bytes(HEIC)
    with pytest.raises(UserError, match=r"IMG_2\.HEIC: it is HEIC; install pillow-heif, the extra \[heic\]"):
        photo_subject(str(folder), "dog", "sks", True, 32)


def test_what_is_left_out_is_said_by_name_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "old").mkdir()
    (folder / "0.txt").write_text("a dog")
    (folder / "clip.MOV").touch()
    (folder / ".DS_Store").touch()
    (folder / "Thumbs.db").touch()
    for _ in range(2):
        photo_files(folder)
    assert capsys.readouterr().err == (
        f"left out of the photos in {folder}: 0.txt, clip.MOV, old/ (a folder); captions are not used, every photo has "
        "the same sentence\n"
    )


def test_a_photo_of_one_colour_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / "seen.png")
    Image.new("RGBA", (32, 32), (9, 9, 9, 0)).save(folder / "unseen.png")
    photo_subject(str(folder), "dog", "sks", True, 32)
    said = capsys.readouterr().err
    assert "unseen.png" in said and "/seen.png" not in said


@pytest.mark.parametrize("name", ["1_MASK.png", "1-mask.png", "1 mask.jpg", "1mask.png", "1.masks.png"])
def test_a_mask_that_is_spelled_otherwise_is_not_learned(folder: Path, name: str) -> None:
    picture(2).save(folder / name)
    with pytest.raises(UserError, match=rf"{name} would be learned .* mask of 1\.png 1_mask\."):
        photo_files(folder)


def test_the_same_picture_in_two_formats_is_refused_by_both_names(folder: Path) -> None:
    """Their files differ."""
    Image.open(folder / "1.png").save(folder / "7.bmp")
    with pytest.raises(UserError, match=r"1\.png and .*7\.bmp show the same"):
        photo_subject(str(folder), "dog", "sks", True, 32)


@pytest.mark.parametrize("name", ["2.avif", "2.CR2", "2.dng", "2.psd", "2.svg", "2.eps"])
def test_pictures_of_other_kinds_are_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).touch()
    with pytest.raises(UserError, match=rf"^{name} in {folder} cannot be read"):
        photo_files(folder)


def twins(folder: Path) -> None:
    picture(2).save(folder / "0.jpg")


def copies(folder: Path) -> None:
    (folder / "7.png").write_bytes((folder / "1.png").read_bytes())


def two_masks(folder: Path) -> None:
    for name in ("0_mask.png", "0_mask.webp", "1_mask.png"):
        Image.new("L", (32, 32), 255).save(folder / name)


@pytest.mark.parametrize(("make", "named"), [(twins, "0.png"), (copies, "7.png"), (two_masks, "0_mask.webp")])
def test_what_could_be_meant_two_ways_is_refused_by_both_names(
    folder: Path, make: Callable[[Path], None], named: str
) -> None:
    make(folder)
    with pytest.raises(UserError) as caught:
        mask_files(photo_files(folder))
    assert str(folder / named) in str(caught.value)
    assert "found " in str(caught.value) or "are the same" in str(caught.value)


def pipe(file: Path) -> None:
    os.mkfifo(file)


def link_out(file: Path) -> None:
    picture(5).save(file.parents[1] / "secret.png")
    file.symlink_to("../secret.png")


def link_to_device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def broken_link(file: Path) -> None:
    file.symlink_to("nowhere.png")


def post_script(file: Path) -> None:
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n%%EndComments\nshowpage\n")


def bomb(file: Path) -> None:
    """A BMP of 400 megapixels that says so in 54 bytes."""
    size = (20000).to_bytes(4, "little")
    file.write_bytes(b"BM" + bytes(8) + b"\x36\0\0\0\x28\0\0\0" + size + size + b"\1\0\x18\0" + bytes(24))


def animated(file: Path) -> None:
    picture(3).save(file, "PNG", save_all=True, append_images=[picture(4)])


@pytest.mark.parametrize("make", [pipe, link_out, link_to_device, broken_link, post_script, bomb, animated, Path.mkdir])
def test_what_is_no_plain_picture_is_refused_without_a_program(
    folder: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    make(folder / "x.png")
    with pytest.raises(UserError) as caught:
        photo_subject(str(folder), "dog", "sks", True, 32)
    assert "x.png" in str(caught.value) and "\n" not in str(caught.value)


def test_a_socket_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # its path may have 107 characters
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("x.png")
        with pytest.raises(UserError, match="it is no plain file"), opened(tmp_path / "x.png"):
            pass


def test_a_link_inside_the_folder_is_a_photo(folder: Path) -> None:
    (folder / "kept").mkdir()
    picture(4).save(folder / "kept" / "4.png")
    (folder / "4.png").symlink_to("kept/4.png")
    assert len(photo_subject(str(folder), "dog", "sks", True, 32).photos) == 3


def test_a_bomb_names_the_limit(folder: Path) -> None:
    bomb(folder / "x.bmp")
    with pytest.raises(UserError, match="over 179 megapixels"):
        read_photo(folder / "x.bmp", 32)


def test_pictures_are_opened_in_one_place(repository: Path) -> None:
    found = [
        file.relative_to(repository).as_posix()
        for top in ("src", "experiments")
        for file in (repository / top).rglob("*.py")
        if "Image.open(" in file.read_text(encoding="utf-8")
    ]
    assert found == ["src/quantbooth/data/pictures.py"]
