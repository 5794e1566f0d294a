"""The manifest: round trip, and refusal of every other or damaged artifact by name."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from quantbooth.runtime.errors import UserError
from quantbooth.store.manifest import FORMAT, Manifest, open_artifact

MANIFEST = Manifest(
    kind="scale_sets",
    format_version=FORMAT,
    name="toy_mug-0123456789ab",
    fingerprint="0123456789ab" + "0" * 52,
    parents={"base": "f" * 64},
    contents={"tuner": {"name": "scales"}},
    package_version="0.1.0",
    measured={"seconds": 1.5, "trained": 27008},
)


def written(folder: Path, **changes: Any) -> Path:
    values = asdict(MANIFEST) | changes
    kept = {key: value for key, value in values.items() if value is not ...}
    (folder / "manifest.json").write_text(json.dumps(kept))
    return folder


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(MANIFEST.to_json())
    assert open_artifact(tmp_path, "scale_sets") == MANIFEST


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "cake"}, "{file} has the unknown kind 'cake'; known are quantized_base, scale_sets, "),
        (
            {"format_version": 1},
            "{file} has format_version 1, this quantbooth reads 5; set paths.store to a new folder",
        ),
        (
            {"format_version": ...},
            "{file} has format_version None, this quantbooth reads 5; set paths.store to a new folder",
        ),
        ({"parents": ..., "name": ...}, "{file}: name: is missing"),
        ({"extra": 1}, "{file}: extra: unknown key"),
        ({"name": 3}, "{file}: name: input should be a valid string, found 3"),
        ({"files": []}, "{file}: files: input should be an object, found []"),
        ({"name": "other"}, "{folder} is damaged: manifest.json has changed"),
        ({"parents": {"base": 3}}, "{file}: parents.base: input should be a valid string, found 3"),
    ],
)
def test_a_wrong_manifest_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        open_artifact(written(tmp_path, **changes), "scale_sets")
    assert str(caught.value).startswith(message.format(folder=tmp_path, file=tmp_path / "manifest.json"))


@pytest.mark.parametrize(
    ("text", "message"), [("{", "must be JSON, found: "), ("[]", "must hold a JSON object, found a list")]
)
def test_a_torn_manifest_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=f"manifest.json {message}"):
        open_artifact(tmp_path, "scores")


def test_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(replace(MANIFEST, kind="scores").to_json())
    with pytest.raises(UserError, match="must hold scale sets, found scores; make it with quantbooth-tune"):
        open_artifact(tmp_path, "scale_sets")


def test_every_key_of_a_manifest_is_sealed(tmp_path: Path) -> None:
    values = json.loads(MANIFEST.to_json())
    other = {"kind": "scores", "parents": {}, "contents": {}, "measured": {}, "files": {"a": "b"}}
    for key in values.keys() - {"format_version"}:
        changed = values | {key: other.get(key, "0")}
        (tmp_path / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match="is damaged: manifest.json has changed"):
            open_artifact(tmp_path, "scale_sets")


def test_what_is_no_artifact_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for name, found in (("gone", "nothing"), ("file", "a file"), ("folder", "a folder without manifest.json")):
        with pytest.raises(UserError) as caught:
            open_artifact(tmp_path / name, "quantized_base")
        expected = f"{tmp_path / name} must hold a quantized base, found {found}; make it with quantbooth-calibrate"
        assert str(caught.value) == expected


def test_a_foreign_parent_is_refused() -> None:
    MANIFEST.require_parent("base", "f" * 64)
    for role, found in (("base", "ffffffffffff"), ("subject", "none")):
        with pytest.raises(UserError) as caught:
            MANIFEST.require_parent(role, "e" * 64)
        assert str(caught.value) == (
            f"scale_sets toy_mug-0123456789ab belongs to the {role} {found}, got eeeeeeeeeeee; "
            f"make it again for this {role}"
        )


def test_measured_numbers_must_be_finite() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(MANIFEST, measured={"loss": float("nan")}).to_json()
