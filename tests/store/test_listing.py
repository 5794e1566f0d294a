"""Names of finished work: a label, the first digits, or both; none and several are refused with the candidates."""

from pathlib import Path

import pytest

from quantbooth.runtime.errors import UserError
from quantbooth.store.listing import find_named, finished, short_digits

NAMES = {
    "scale_sets": ("mug-s2-w4-seed0-859710105c30", "mug-s2-w4-seed0-859799999999", "mug-s1-w4-seed0-12e456789abc"),
    "adapters": ("mug-lora-fp-seed0-ffff00000000", "by-hand"),
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for kind, names in NAMES.items():
        for name in names:
            (tmp_path / kind / name).mkdir(parents=True)
            (tmp_path / kind / name / "manifest.json").write_text("{}")
    (tmp_path / "scale_sets" / "unfinished-859710105c31").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("mug-s1-w4-seed0", "mug-s1-w4-seed0-12e456789abc"),
        ("12e4", "mug-s1-w4-seed0-12e456789abc"),
        ("85971", "mug-s2-w4-seed0-859710105c30"),
        ("mug-s2-w4-seed0-85979", "mug-s2-w4-seed0-859799999999"),
        ("mug-s2-w4-seed0-859799999999", "mug-s2-w4-seed0-859799999999"),
        (f"859799999999{52 * 'a'}", "mug-s2-w4-seed0-859799999999"),
        ("by-hand", "by-hand"),
    ],
)
def test_a_name_finds_one(store: Path, typed: str, found: str) -> None:
    assert find_named(store, typed, tuple(NAMES), "scale_sets").name == found


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (
            "8597",
            r"^scale_sets=8597 names 2 artifacts in \S+: mug-s2\S+859710105c30, mug-s2\S+859799999999; add digits",
        ),
        ("mug-s2-w4-seed0", r"^scale_sets=mug-s2-w4-seed0 names 2 artifacts .*such as scale_sets=85971$"),
        ("859", r"^scale_sets=859 names nothing in \S+; near are mug-s2\S+859710105c30, mug-s2"),
        (
            "lora",
            r"^scale_sets=lora names nothing in \S+; near are mug-lora-fp-seed0-ffff00000000; quantbooth-list paths",
        ),
        ("12e5", r"^scale_sets=12e5 names nothing in \S+; quantbooth-list paths\.store=\S+ shows all$"),
        ("85971010ffff", "names nothing"),
    ],
)
def test_none_and_several_are_refused(store: Path, typed: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        find_named(store, typed, tuple(NAMES), "scale_sets")


def test_short_digits_are_the_fewest_that_find(store: Path) -> None:
    folders = finished(store)
    short = short_digits(folders)
    assert {folder.name: short[folder] for folder in folders} == {
        **{"mug-s2-w4-seed0-859710105c30": "85971", "mug-s2-w4-seed0-859799999999": "85979"},
        **{"mug-s1-w4-seed0-12e456789abc": "12e4", "mug-lora-fp-seed0-ffff00000000": "ffff", "by-hand": "by-hand"},
    }
    assert all(find_named(store, short[folder], tuple(NAMES), "scale_sets") == folder for folder in folders)


def test_no_store_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no store at \S+/x; name it by paths\.store=DIR or .*QUANTBOOTH_STORE$"):
        finished(tmp_path / "x")
