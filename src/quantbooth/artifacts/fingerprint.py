"""Fingerprints: what an artifact is made of, as 64 hexadecimal digits."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from quantbooth.errors import UserError

__all__ = ["SHORT", "fingerprint", "folder_fingerprint"]

SHORT = 12
"""Digits of a fingerprint that a folder's name shows."""


def fingerprint(identity: Mapping[str, Any]) -> str:
    """sha256 of the identity as canonical JSON: keys sorted, no spaces, so the order of keys does not count.

    Raises:
        TypeError: for anything JSON has no form for (a path, a tensor, a key that is no string).
        ValueError: for a number that is not finite.
    """
    _refuse_other_keys(identity)
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def folder_fingerprint(folder: Path) -> str:
    """Return sha256 over the names, relative to the folder, and the contents of all its files.

    A file is read once a process, as long as its size and time of change stay.

    Raises:
        UserError: when there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"a folder was expected at {folder}, found {'a file' if folder.exists() else 'nothing'}")
    files = sorted((file.relative_to(folder).as_posix(), file) for file in folder.rglob("*") if file.is_file())
    return fingerprint({"files": [[name, _digest_now(file)] for name, file in files]})


def _digest_now(file: Path) -> str:
    state = file.stat()
    return _digest(file.resolve(), state.st_size, state.st_mtime_ns)


@cache
def _digest(file: Path, _size: int, _changed: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _refuse_other_keys(node: object) -> None:
    """JSON would write the keys 1 and "1" alike, and so give two identities one fingerprint."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if not isinstance(key, str):
                raise TypeError(f"the keys of an identity must be strings, got {key!r}")
            _refuse_other_keys(value)
    elif isinstance(node, list | tuple):
        for value in node:
            _refuse_other_keys(value)
