"""Atomic writes of folders, disk-full errors as user errors, and fingerprints of settings, files and weights."""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn

from quantbooth.runtime.errors import UserError

__all__ = [
    "SHORT",
    "checksum",
    "checksums",
    "fingerprint",
    "folder_fingerprint",
    "disk_full_as_user_error",
    "weights_fingerprint",
    "atomic_folder",
    "require_name",
    "require_plain",
]

FULL = (errno.ENOSPC, errno.EDQUOT)


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
        UserError: when `destination` exists and is not an empty folder, or the disk is full.
    """
    if destination.is_dir() and not any(destination.iterdir()):
        destination.rmdir()
    if destination.exists():
        raise UserError(f"{destination} is there already; remove it, or choose another {option}")
    with disk_full_as_user_error(destination.parent, option):
        destination.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}.") as place:
            draft = Path(place) / destination.name
            draft.mkdir()
            yield draft
            draft.rename(destination)


@contextlib.contextmanager
def disk_full_as_user_error(root: Path, option: str) -> Iterator[None]:
    """Turn disk-full errors of the block into a user error, also those that a library wrapped.

    Raises:
        UserError: when the disk of `root`, which `option` chooses, is full.
    """
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in FULL
        if full or os.strerror(errno.ENOSPC) in str(error):
            raise UserError(f"the disk of {root} is full; free some space, or set {option} to another disk") from error
        raise


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
    files = sorted((file.relative_to(folder).as_posix(), file) for file in folder.rglob("*") if file.is_file())
    return fingerprint({"files": [[name, _digest_now(file)] for name, file in files]})


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
