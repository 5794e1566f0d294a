"""Names of drafts and locks in a folder of artifacts, all hidden: a draft is dead when nobody owns its artifact.

.<label>-<12 digits>.<when it began>.<8 random digits>.partial
.<12 digits>.lock
"""

import re
import shutil
import uuid
from datetime import UTC, datetime
from pathlib import Path

from quantbooth.store.files import SHORT
from quantbooth.store.ownership import owning_if_free

__all__ = ["drafts", "lock_of", "new_draft", "remove_abandoned", "since"]

BEGAN = "%Y%m%dT%H%M%S"
DRAFT = re.compile(rf"\..+-(?P<digits>[0-9a-f]{{{SHORT}}})\.(?P<began>\d{{8}}T\d{{6}})\.[0-9a-f]{{8}}\.partial")
LOCK = re.compile(rf"\.(?P<digits>[0-9a-f]{{{SHORT}}})\.lock")


def new_draft(destination: Path) -> Path:
    """Return the path of a new draft of an artifact."""
    began = datetime.now(UTC).strftime(BEGAN)
    return destination.with_name(f".{destination.name}.{began}.{uuid.uuid4().hex[:8]}.partial")


def lock_of(folder: Path, digits: str) -> Path:
    """Return the lock of the artifact with these digits of its fingerprint."""
    return folder / f".{digits}.lock"


def drafts(folder: Path, digits: str) -> list[Path]:
    """Return the drafts of the artifact with these digits."""
    return [path for path, match in _drafts(folder) if match["digits"] == digits]


def since(folder: Path, digits: str) -> str:
    """Return when the draft of an artifact began, in words; empty where there is none."""
    began = [match["began"] for _, match in _drafts(folder) if match["digits"] == digits]
    return f"{datetime.strptime(max(began), BEGAN):%Y-%m-%d %H:%M:%S} UTC" if began else ""


def remove_abandoned(folder: Path) -> None:
    """Remove the drafts and locks of all artifacts whose owner has died."""
    locked = {match["digits"] for path in folder.glob(".*.lock") if (match := LOCK.fullmatch(path.name))}
    for digits in locked | {match["digits"] for _, match in _drafts(folder)}:
        with owning_if_free(lock_of(folder, digits)) as free:
            for path in drafts(folder, digits) if free else []:
                shutil.rmtree(path, ignore_errors=True)


def _drafts(folder: Path) -> list[tuple[Path, re.Match[str]]]:
    return [(path, match) for path in folder.glob(".*.partial") if (match := DRAFT.fullmatch(path.name))]
