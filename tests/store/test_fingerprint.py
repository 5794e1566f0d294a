"""Fingerprints: equal for equal content, different otherwise, and refused where JSON would hide a difference."""

import hashlib
from pathlib import Path

import pytest

from quantbooth.runtime.errors import UserError
from quantbooth.store.files import fingerprint, folder_fingerprint


def test_a_fingerprint_is_sha256_over_canonical_json() -> None:
    assert fingerprint({"b": [1, 2.5], "a": "ü"}) == hashlib.sha256('{"a":"ü","b":[1,2.5]}'.encode()).hexdigest()


def test_the_order_of_keys_does_not_count_and_values_do() -> None:
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})
    assert len({fingerprint({"a": value}) for value in (1, 1.5, "1", None, True, [1])}) == 6


@pytest.mark.parametrize("identity", [{"a": Path("x")}, {"a": {1}}, {1: "a"}, {"a": [{2: "b"}]}])
def test_what_json_cannot_tell_apart_is_refused(identity: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        fingerprint(identity)


def test_numbers_must_be_finite() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint({"a": float("nan")})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "here" / "photos"
    (folder / "more").mkdir(parents=True)
    (folder / "a.png").write_bytes(b"one")
    (folder / "more" / "b.png").write_bytes(b"two")
    return folder


def test_the_same_files_elsewhere_have_the_same_fingerprint(photos: Path, tmp_path: Path) -> None:
    before = folder_fingerprint(photos)
    assert folder_fingerprint(photos.rename(tmp_path / "another name")) == before


def test_names_and_contents_of_files_count(photos: Path) -> None:
    before = folder_fingerprint(photos)
    (photos / "more" / "b.png").write_bytes(b"three")
    changed = folder_fingerprint(photos)
    (photos / "a.png").rename(photos / "c.png")
    assert len({before, changed, folder_fingerprint(photos)}) == 3


def test_a_linked_folder_counts_as_its_files_do(photos: Path, tmp_path: Path) -> None:
    """As a base whose autoencoder several bases share: another one behind the link is another base."""
    before = folder_fingerprint(photos)
    (photos / "more").rename(tmp_path / "shared")
    (photos / "more").symlink_to(tmp_path / "shared")
    (tmp_path / "shared" / "circle").symlink_to(tmp_path / "shared")
    (photos / "circle").symlink_to(photos)
    assert folder_fingerprint(photos) == before
    (tmp_path / "shared" / "b.png").write_bytes(b"three")
    assert folder_fingerprint(photos) != before


def test_a_file_is_read_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = folder_fingerprint(photos)
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert folder_fingerprint(photos) == before


@pytest.mark.parametrize(("place", "found"), [("gone", "nothing"), ("here/photos/a.png", "a file")])
def test_what_is_no_folder_is_named(photos: Path, tmp_path: Path, place: str, found: str) -> None:
    with pytest.raises(UserError, match=rf"^a folder was expected at .*{place}, found {found}$"):
        folder_fingerprint(tmp_path / place)
