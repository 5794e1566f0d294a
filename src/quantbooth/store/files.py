"""Atomic writes of folders, errors of storage that name it, and fingerprints of settings, files and weights."""

import contextlib
import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from quantbooth.runtime.errors import UserError
from quantbooth.runtime.limits import STORAGE, number_of
from quantbooth.store.ownership import owning

__all__ = [
    "SHORT",
    "checksum",
    "checksums",
    "fingerprint",
    "folder_fingerprint",
    "owning_folder",
    "storage_of",
    "weights_fingerprint",
    "atomic_folder",
    "require_free",
    "require_name",
    "require_place",
    "require_plain",
    "write_whole",
]


PARTIAL = ".partial"


def require_plain(file: Path, what: str) -> None:
    """Check that a path is a plain file before it is opened: a pipe or a device would never end.

    Raises:
        UserError: when it is missing, a folder, a pipe, a device, or a link that leaves its folder.
    """
    if not os.path.lexists(file):
        raise UserError(f"cannot read {what} {file}: it is not there; make it again")
    if not file.is_file():
        found = "a folder" if file.is_dir() else "no plain file"
        raise UserError(f"cannot read {what} {file}: it is {found}; remove it or save it again")
    if file.is_symlink() and not file.resolve().is_relative_to(file.parent.resolve()):
        raise UserError(f"cannot read {what} {file}: it is a link out of its folder; copy the file there")


def require_name(name: str, where: str) -> str:
    """Return a name that stays in its folder on every system.

    Raises:
        UserError: when it has a folder, a drive or an unprintable character in it.
    """
    if not name.isprintable() or name.strip(". ") == "" or set(name) & set("/\\:"):
        raise UserError(f"{where} must be the name of a file in its folder, found {name!r}")
    return name


@contextlib.contextmanager
def atomic_folder(destination: Path, option: str) -> Iterator[Path]:
    """Yield a temporary folder that becomes `destination` when the block ends, and is removed when it raises.

    Raises:
        UserError: when `destination` exists and is not an empty folder.
    """
    require_free(destination, option)
    with owning_folder(destination):
        require_free(destination, option)  # another process may have made it
        for left in destination.parent.glob(f".{glob.escape(destination.name)}.*{PARTIAL}"):
            shutil.rmtree(left, ignore_errors=True)
        place = destination.with_name(f".{destination.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
        draft = place / destination.name
        try:
            draft.mkdir(parents=True)
            yield draft
            draft.rename(destination)
        finally:
            shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def owning_folder(folder: Path) -> Iterator[None]:
    """Be the only process that makes a folder, or a file, after waiting for another one that does."""
    with storage_of(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with owning(folder.with_name(f".{folder.name}.lock"), str(folder)):
            yield


def require_free(destination: Path, option: str) -> None:
    """Refuse a place that is not free.

    Raises:
        UserError: when `destination` exists and is not an empty folder.
    """
    if destination.is_dir() and not any(destination.iterdir()):
        destination.rmdir()
    if destination.exists():
        raise UserError(f"{destination} is there already; remove it, or choose another {option}")


def require_place(file: Path, option: str) -> None:
    """Check that a file can be written to a place, before the work that it is written of.

    Raises:
        UserError: when a folder, a device or a pipe is there, or what is around it is no folder.
    """
    if file.exists() and not file.is_file():
        found = "a folder" if file.is_dir() else "a device or a pipe"
        raise UserError(f"{option} must name a file, found {found} at {file}; choose another place")
    around = next(folder for folder in file.absolute().parents if os.path.lexists(folder))
    if not around.is_dir():
        raise UserError(f"{option} must lie in a folder, found {around}, which is none, around {file}")


def write_whole(file: Path, content: str | bytes) -> None:
    """Write a file that a reader sees complete or not at all; a process that writes the same one waits.

    Raises:
        UserError: when something else than a file is there, such as a device, which would be replaced.
    """
    require_place(file, "what is written")
    draft = file.with_name(f".{file.name}{PARTIAL}")
    with owning_folder(file):
        try:
            draft.write_bytes(content.encode() if isinstance(content, str) else content)
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)


@contextlib.contextmanager
def storage_of(root: Path) -> Iterator[None]:
    """Name a folder in errors of its storage that name no file, such as those that a library wrapped.

    Raises:
        OSError: with the system's number and `root`, for a full disk, a quota, a lost file server.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = number_of(error)
        if number not in STORAGE or (isinstance(error, OSError) and error.filename):
            raise
        raise OSError(number, os.strerror(number), str(root)) from error


SHORT = 12
"""Digits of the fingerprint in a folder's name."""


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Return sha256 of the identity as canonical JSON: keys sorted, no spaces, so the order of keys does not matter.

    Raises:
        TypeError: for anything that JSON cannot represent (a path, a tensor, a key that is not a string).
        ValueError: for a number that is not finite.
    """
    _refuse_other_keys(identity)
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def folder_fingerprint(folder: Path) -> str:
    """Return sha256 of the relative names and the contents of all files in a folder.

    A process reads a file once, as long as its size and modification time do not change.

    Raises:
        UserError: when there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"a folder was expected at {folder}, found {'a file' if folder.exists() else 'nothing'}")
    return fingerprint({"files": [[name, _digest_now(file)] for name, file in _files_below(folder)]})


def _files_below(folder: Path) -> list[tuple[str, Path]]:
    """Return the files of a folder by name, also those of linked folders, such as a `vae` that several bases share."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        folders[:] = [
            name for name in folders if not here.resolve().is_relative_to((here / name).resolve())
        ]  # no circle
        found += [((here / name).relative_to(folder).as_posix(), here / name) for name in names]
    return sorted((name, file) for name, file in found if file.is_file())


def checksums(folder: Path) -> dict[str, str]:
    """Return the checksum of every file in a folder by its relative name.

    A process reads a file once, as long as its size and modification time do not change.
    """
    files = sorted((file.relative_to(folder).as_posix(), file) for file in folder.rglob("*") if file.is_file())
    return {name: checksum(file) for name, file in files}


def checksum(file: Path) -> str:
    """Return blake2b of a file's contents, 128 bits: it finds damage, it does not identify."""
    state = file.stat()
    return _checksum(file.resolve(), state.st_size, state.st_mtime_ns)


@cache
def _checksum(file: Path, _size: int, _changed: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _digest_now(file: Path) -> str:
    state = file.stat()
    return _digest(file.resolve(), state.st_size, state.st_mtime_ns)


@cache
def _digest(file: Path, _size: int, _changed: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _refuse_other_keys(node: object) -> None:
    """Refuse keys that are not strings: JSON writes 1 and "1" alike, so two identities would share a fingerprint."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if not isinstance(key, str):
                raise TypeError(f"the keys of an identity must be strings, got {key!r}")
            _refuse_other_keys(value)
    elif isinstance(node, list | tuple):
        for value in node:
            _refuse_other_keys(value)


def weights_fingerprint(judge: nn.Module) -> str:
    """Return eight hexadecimal digits that change with any weight as stored, in half precision."""
    digest = hashlib.sha256()
    for key, value in sorted(halved(judge).items()):
        digest.update(key.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


def halved(judge: nn.Module) -> dict[str, Tensor]:
    return {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in judge.state_dict().items()
    }
