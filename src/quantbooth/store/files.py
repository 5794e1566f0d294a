"""Files of artifacts: folders that appear whole or not at all, and fingerprints of settings, files and weights.

What a disk may do to us: a folder appears whole or not at all, and a full disk is told in one line.

Fingerprints: what an artifact is made of, as 64 hexadecimal digits.

The fingerprint of a network's weights as they are stored, in half precision.
"""

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

__all__ = ["SHORT", "fingerprint", "folder_fingerprint", "full_disk_in_one_line", "weights_fingerprint", "whole_folder"]

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def whole_folder(destination: Path, option: str) -> Iterator[Path]:
    """A folder to fill; when the block ends it appears at its place at once, when it raises nothing remains.

    Raises:
        UserError: when there is something at its place that is not an empty folder, or the disk is full.
    """
    if destination.is_dir() and not any(destination.iterdir()):
        destination.rmdir()
    if destination.exists():
        raise UserError(f"{destination} is there already; remove it, or choose another {option}")
    with full_disk_in_one_line(destination.parent, option):
        destination.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}.") as place:
            draft = Path(place) / destination.name
            draft.mkdir()
            yield draft
            draft.rename(destination)


@contextlib.contextmanager
def full_disk_in_one_line(root: Path, option: str) -> Iterator[None]:
    """Libraries wrap the system's error; its text survives in theirs.

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


def weights_fingerprint(judge: nn.Module) -> str:
    """Eight hexadecimal digits that change with any stored weight."""
    digest = hashlib.sha256()
    for key, value in sorted(halved(judge).items()):
        digest.update(key.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


def halved(judge: nn.Module) -> dict[str, Tensor]:
    return {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in judge.state_dict().items()
    }
