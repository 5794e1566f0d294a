"""The manifest: the file in an artifact's folder that records what it is and what it was made from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from shlex import quote
from typing import Any

from quantbooth.runtime.errors import UserError
from quantbooth.store.documents import checked, read_json
from quantbooth.store.files import SHORT, checksums, fingerprint

__all__ = ["FORMAT", "KINDS", "MANIFEST", "SEAL", "TITLES", "Manifest", "open_artifact", "read_manifest"]

MAKERS = {
    "quantized_base": "quantbooth-calibrate",
    "scale_sets": "quantbooth-tune",
    "tuned_weights": "quantbooth-tune",
    "adapters": "quantbooth-tune",
    "image_set": "quantbooth-sample",
    "scores": "quantbooth-evaluate",
    "damage": "quantbooth-degradation",  # the kind is part of fingerprints, so it keeps its name
    "probe": "quantbooth-probe",
    "report": "quantbooth-report",
    "calibration_set": "quantbooth-calibrate",
    "gradients": "quantbooth-tune",
}
KINDS = tuple(MAKERS)
TITLES = {
    "quantized_base": "a quantized base",
    "scale_sets": "scale sets",
    "tuned_weights": "tuned weights",
    "adapters": "adapters",
    "image_set": "an image set",
    "scores": "scores",
    "damage": "a measurement of degradation",
    "probe": "a probe",
    "report": "a report",
    "calibration_set": "a calibration set",
    "gradients": "gradients by timestep",
}
"""Kind -> its name in messages."""
FORMAT = 5
"""Version of every artifact; 4: checksums in the manifest; 5: accumulated batches and samplers of SD draw otherwise."""
MANIFEST = "manifest.json"
SEAL = "checksum"
"""The manifest's key with the checksum of its other keys."""


@dataclass(frozen=True)
class Manifest:
    """The description of an artifact.

    `parents` maps a role (`base`, `scale_sets`) to the fingerprint of the parent artifact; `contents` describes its
    files for readers; `measured` is the cost of making it (seconds, bytes, trained parameters); `files` has the
    checksum of each file but this one. The last three are not part of the fingerprint.
    """

    kind: str
    format_version: int
    name: str
    fingerprint: str
    parents: dict[str, str]
    contents: dict[str, Any]
    package_version: str
    measured: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)

    def require_parent(self, role: str, fingerprint: str) -> None:
        """Check that a parent is the one this artifact was made from.

        Raises:
            UserError: when the manifest names another fingerprint, or none, for the role.
        """
        if self.parents.get(role) != fingerprint:
            found = self.parents.get(role, "none")[:SHORT]
            raise UserError(
                f"{self.kind} {self.name} belongs to the {role} {found}, got {fingerprint[:SHORT]}; "
                f"make it again for this {role}"
            )

    def to_json(self) -> str:
        """Return the text of manifest.json.

        Raises:
            ValueError: for a measured number that is not finite.
        """
        values = asdict(self)
        return json.dumps(values | {SEAL: _seal(values)}, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def open_artifact(path: Path, kind: str) -> Manifest:
    """Return the manifest of a finished artifact of this kind.

    All its files are read once a process and compared with their checksums.

    Raises:
        UserError: when `path` does not exist, is not finished, is something else, or is damaged.
    """
    file = path / MANIFEST
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
    elif not file.is_file():
        found = f"a folder without {MANIFEST}"
    elif (manifest := _parse(file)).kind == kind:
        _require_sound(path, manifest)
        return manifest
    else:
        found = TITLES[manifest.kind]
    raise UserError(f"{path} must hold {TITLES[kind]}, found {found}; make it with {MAKERS[kind]}")


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of an artifact of any kind, without reading its other files.

    Raises:
        UserError: when it is damaged.
    """
    return _parse(path / MANIFEST)


def _damaged(path: Path, what: str) -> UserError:
    return UserError(
        f"{path} is damaged: {what}; quantbooth-verify --repair {quote(str(path.parents[1]))} makes it again"
    )


def _seal(values: Mapping[str, Any]) -> str:
    return fingerprint(values)[:32]


def _require_sound(path: Path, manifest: Manifest) -> None:
    strange = [each for each in path.rglob("*") if each.is_symlink() or not (each.is_file() or each.is_dir())]
    names = [name for each in strange if not _is_hidden(name := each.relative_to(path).as_posix())]
    if names:
        raise _damaged(path, f"{min(names)} is a link, a pipe or a device")
    found = {name: value for name, value in checksums(path).items() if name != MANIFEST and not _is_hidden(name)}
    wrong = [f"{name} is missing" for name in manifest.files.keys() - found.keys()]
    wrong += [f"{name} is not part of it" for name in found.keys() - manifest.files.keys()]
    wrong += [f"{name} has changed" for name, value in found.items() if manifest.files.get(name, value) != value]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise _damaged(path, f"{min(wrong)}{more}")


def _is_hidden(name: str) -> bool:
    """Return whether a file is of the system (.DS_Store), which no reader opens."""
    return any(part.startswith(".") for part in name.split("/"))


def _parse(file: Path) -> Manifest:
    try:
        values = read_json(file)
    except UserError as error:
        raise _damaged(file.parent, str(error)) from error
    if not isinstance(values, dict):
        raise UserError(f"{file} must hold a JSON object, found a {type(values).__name__}")
    seal = values.pop(SEAL, None)
    _require_known(values, file)
    manifest = checked(Manifest, values, str(file))
    if missing := [field.name for field in fields(Manifest) if field.name not in values]:
        raise UserError(f"{file} lacks {', '.join(missing)}")
    if seal != _seal(values):
        raise _damaged(file.parent, f"{file.name} has changed")
    return manifest


def _require_known(values: Mapping[str, Any], file: Path) -> None:
    kind, version = values.get("kind"), values.get("format_version")
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"{file} has the unknown kind {kind!r}; known are {', '.join(KINDS)}")
    if version != FORMAT:
        raise UserError(
            f"{file} has format_version {version}, this quantbooth reads {FORMAT}; set paths.store to a new folder and "
            "make it again"
        )
