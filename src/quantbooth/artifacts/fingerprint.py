"""Fingerprints: what an artifact is made of, as 64 hexadecimal digits."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from quantbooth.errors import UserError

__all__ = ["SHORT", "file_fingerprint", "fingerprint"]

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


def file_fingerprint(paths: Iterable[Path]) -> str:
    """sha256 over the names and contents of files; a folder counts with everything in it.

    Names are relative to the folder a path lies in, so the same files elsewhere are the same.

    Raises:
        UserError: for a path that does not exist.
    """
    named = sorted((name, file) for path in paths for name, file in _files(path))
    return fingerprint({"files": [[name, _digest(file)] for name, file in named]})


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    if path.is_dir():
        for file in path.rglob("*"):
            if file.is_file():
                yield file.relative_to(path.parent).as_posix(), file
    elif path.is_file():
        yield path.name, path
    else:
        raise UserError(f"a file or folder was expected at {path}, found nothing")


def _digest(file: Path) -> str:
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
