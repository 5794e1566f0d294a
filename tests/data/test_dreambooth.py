"""The DreamBooth data set: the published subjects and sentences, and what is wrong with a folder of it."""

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from quantbooth.config import conf_dir
from quantbooth.data.dreambooth import CLASSES, LIVE, check, unpack, write_sums
from quantbooth.data.prompts import prompts_for
from quantbooth.errors import UserError

SENTENCES = "68f4abff4106"
"""Begin of the sha256 of the 50 published sentences, `{}` for "identifier class", one a line, objects first."""


def folder_of(place: Path, photos: int = 4, subjects: tuple[str, ...] = tuple(CLASSES)) -> Path:
    for subject in subjects:
        (place / subject).mkdir(parents=True)
        for number in range(photos):
            Image.new("RGB", (20, 20), (40 * number, 0, 0)).save(place / subject / f"{number:02d}.jpg")
    return place


def archive_of(place: Path, source: Path) -> Path:
    """As GitHub packs a repository."""
    file = place / "main.zip"
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("dreambooth-main/dataset/prompts_and_classes.txt", "facts")
        made.writestr("dreambooth-main/dataset/dog/../../../../evil.jpg", "evil")
        made.writestr("dreambooth-main/dataset/stranger/00.jpg", "no subject")
        for photo in sorted(source.rglob("*.jpg")):
            made.write(photo, f"dreambooth-main/dataset/{photo.relative_to(source)}")
    return file


def test_sentences_are_the_published_ones() -> None:
    lines = [prompt.template for live in (False, True) for prompt in prompts_for(live)]
    assert len(lines) == 50
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest().startswith(SENTENCES)


def test_every_subject_is_an_option_with_its_class() -> None:
    assert (len(CLASSES), len(set(CLASSES.values())), sum(kind in LIVE for kind in CLASSES.values())) == (30, 15, 9)
    for subject, kind in CLASSES.items():
        found = yaml.safe_load((conf_dir() / "subject" / f"{subject}.yaml").read_text())
        assert found.pop("defaults") == ["folder"]
        assert found.pop("live", False) == (kind in LIVE)
        assert found == {"name": subject, "path": "${paths.dreambooth}/" + subject, "class_word": kind}


def test_photos_alone_come_out_of_an_archive(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source")
    made = tmp_path / "deep" / "er" / "made"
    made.mkdir(parents=True)
    unpack(archive_of(tmp_path, source), made)
    files = {file.relative_to(made): file.read_bytes() for file in made.rglob("*") if file.is_file()}
    assert files == {file.relative_to(source): file.read_bytes() for file in source.rglob("*.jpg")}
    assert not list(tmp_path.rglob("evil.jpg"))


def test_a_whole_folder_has_nothing_wrong_and_a_part_of_it_neither(tmp_path: Path) -> None:
    assert check(folder_of(tmp_path / "a")) == (dict.fromkeys(CLASSES, 4), [])
    assert check(folder_of(tmp_path / "b", 6, ("dog", "can"))) == ({"can": 6, "dog": 6}, [])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: (f / "dog/00.jpg").unlink(), ["dog/00.jpg is listed in SHA256SUMS but not there"]),
        (
            lambda f: (f / "dog/00.jpg").write_bytes((f / "dog/01.jpg").read_bytes()),
            ["dog/00.jpg is not the file"],
        ),
        (lambda f: (f / "dog/00.jpg").write_text("x"), ["dog/00.jpg is not", "dog/00.jpg cannot be read as a picture"]),
        (lambda f: (f / "SHA256SUMS").unlink(), []),
    ],
)
def test_a_changed_file_is_found(tmp_path: Path, spoil: Callable[[Path], object], told: list[str]) -> None:
    folder = folder_of(tmp_path / "a", 5)
    write_sums(folder)
    spoil(folder)
    wrong = check(folder)[1]
    assert [line.startswith(begin) for line, begin in zip(wrong, told, strict=True)] == [True] * len(told)


def test_too_few_photos_and_foreign_folders_are_told(tmp_path: Path) -> None:
    assert check(folder_of(tmp_path / "a", 3, ("dog",)))[1] == ["dog must have 4 to 6 photos, found 3"]
    with pytest.raises(UserError, match=r"^no folder at .*/none; quantbooth-data dreambooth makes one$"):
        check(tmp_path / "none")
    with pytest.raises(UserError, match=r"/dog holds none of the 30 subjects, such as .*/dog/dog$"):
        check(tmp_path / "a" / "dog")
    (tmp_path / "x.zip").write_text("no archive")
    with pytest.raises(UserError, match=r"x\.zip must be a zip archive of https://.*, got a damaged file: "):
        unpack(tmp_path / "x.zip", tmp_path)
