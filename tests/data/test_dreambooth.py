"""DreamBooth's folder: which of the 30 subjects it has, and the check of a subject's photos."""

from pathlib import Path

import pytest
from PIL import Image

from quantbooth.data.dreambooth import NAMES, check_photos, dreambooth_subject, present
from quantbooth.data.photos import photo_subject
from quantbooth.runtime.errors import UserError


@pytest.fixture
def dog(tmp_path: Path) -> Path:
    """Five photos, with room for more."""
    (tmp_path / "dog").mkdir()
    for number in range(5):
        Image.new("RGB", (40, 40), (40 * number, 0, 0)).save(tmp_path / "dog" / f"0{number}.jpg")
    return tmp_path / "dog"


def test_there_are_thirty() -> None:
    assert len(set(NAMES)) == 30
    assert list(NAMES) == sorted(NAMES)


def test_those_that_are_there_are_told_and_other_folders_are_not(dog: Path) -> None:
    (dog.parent / "rex").mkdir()
    assert present(dog.parent) == ["dog"]
    with pytest.raises(
        UserError, match=rf"^none of DreamBooth's subjects in {dog}; it must hold folders such as backpack"
    ):
        present(dog)


def test_a_subjects_photos_are_counted(dog: Path) -> None:
    assert check_photos(dog) == 5


@pytest.mark.parametrize("count", [3, 7])
def test_fewer_than_four_photos_or_more_than_six_are_refused(dog: Path, count: int) -> None:
    for number in range(7):
        file = dog / f"0{number}.jpg"
        Image.new("RGB", (40, 40), (0, 36 * number, 0)).save(file) if number < count else file.unlink(missing_ok=True)
    with pytest.raises(UserError, match=rf"^{dog} must hold 4 to 6 photos as published, found {count}$"):
        check_photos(dog)


def test_a_torn_photo_is_named(dog: Path) -> None:
    (dog / "03.jpg").write_bytes((dog / "03.jpg").read_bytes()[:300])
    with pytest.raises(UserError, match=r"cannot read the photo .*dog/03\.jpg"):
        check_photos(dog)


def test_it_is_the_subject_of_its_folder(dog: Path) -> None:
    options = {"class_word": "dog", "identifier": "sks", "live": True, "resolution": 32}
    made = dreambooth_subject(str(dog), **options)
    assert made.fingerprint == photo_subject(str(dog), **options).fingerprint  # type: ignore[arg-type]
