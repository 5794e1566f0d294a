"""What a disk may do to us: a folder appears whole or not at all, and a full disk is told in one line."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from quantbooth.errors import UserError

__all__ = ["full_disk_in_one_line", "whole_folder"]

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
