"""DreamBooth's 30 public subjects: download from the public repository, verify, and load as a subject.

The listing of one commit gives git's sha1 ("blob", size and content) of each file, so every file is verified. Tests use
a local server (tests/commands/test_data.py), never the public one.

Source: Ruiz et al. 2023; github.com/google/dreambooth, CC-BY 4.0, photos in part under the Unsplash licence.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from quantbooth.data.photo_folder import photo_files
from quantbooth.data.photos import photo_subject, read_photo
from quantbooth.data.subjects import Subject
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.progress import progress
from quantbooth.store.documents import parsed_json, read_as
from quantbooth.store.files import require_plain, write_whole

__all__ = [
    "LISTING",
    "NAMES",
    "Source",
    "check_photos",
    "dreambooth_subject",
    "fetch",
    "present",
    "read_listing",
    "verify",
]

LISTING = "listing.json"
"""The published list, stored next to the photos: each file's name and git's digest of it."""
WANTED = re.compile(r"dataset/((?:\w+/)?\w+\.(?:jpe?g|png|txt))")
DIGEST = re.compile(r"[0-9a-f]{40}")
MAKE_AGAIN = "run quantbooth-data dreambooth with this folder"
PUBLISHED = "the published list; move it away, or give another folder=DIR"
SECONDS = 60


@dataclass(frozen=True)
class Source:
    """The addresses of one version of the data set.

    Attributes:
        version: the commit.
        listing: the URL of its list of files, from GitHub's API.
        files: the URL prefix of the files.
    """

    version: str
    listing: str
    files: str


def fetch(source: Source, folder: Path) -> int:
    """Download missing files and return their number; existing files are kept, so an interrupted download resumes.

    Raises:
        UserError: when the source cannot be reached, sends other content than was published, or a local file has other
            content.
    """
    listing = _listed(source)
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name, digest in listing.items() if not _is_there(folder / name, digest)]
    for name in progress(missing, "fetching photos"):
        content = _get(f"{source.files}/dataset/{name}")
        if _git_digest(content) != listing[name]:
            raise UserError(
                f"{source.files}/dataset/{name} has another digest than in {source.listing}; run the same command "
                "again, and if it stays so, give source.listing and source.files of one version"
            )
        write_whole(folder / name, content)
    write_whole(folder / LISTING, json.dumps(listing, indent=1, sort_keys=True).encode())
    return len(missing)


def read_listing(folder: Path) -> dict[str, str]:
    """Read the listing that `fetch` stored; empty for a folder from another source."""
    file = folder / LISTING
    listing = read_as(dict[str, str], file) if os.path.lexists(file) else {}
    if strange := [name for name in listing if not WANTED.fullmatch(f"dataset/{name}")]:
        raise UserError(f"{file} must list files such as dog/00.jpg, found {strange[0]!r}; {MAKE_AGAIN}")
    _require_digests(listing, str(file), MAKE_AGAIN)
    return listing


def verify(folder: Path, listing: Mapping[str, str]) -> None:
    """Compare every listed file with the published digest.

    Raises:
        UserError: for a file that is missing or differs, and for a photo of a subject that the list does not have.
    """
    for name, digest in listing.items():
        if not _is_there(folder / name, digest, f"{folder / LISTING}; {MAKE_AGAIN}, which compares both"):
            raise UserError(f"{folder / name} is missing; {MAKE_AGAIN}")
    photos = [(name, file) for name in (present(folder) if listing else ()) for file in photo_files(folder / name)]
    if added := [file for name, file in photos if f"{name}/{file.name}" not in listing]:
        raise UserError(f"{added[0]} is not in the published list {folder / LISTING}; move it away")


def _listed(source: Source) -> dict[str, str]:
    content = _get(source.listing)
    try:
        given = parsed_json(content.decode(), source.listing)
        found = {match[1]: item["sha"] for item in given["tree"] if (match := WANTED.fullmatch(item["path"]))}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{source.listing} must be a list of files as GitHub gives it, got {content[:40]!r}") from error
    if not found or given.get("truncated"):
        raise UserError(f"{source.listing} must list all photos below dataset/, it lists {len(found)} of them")
    _require_digests(found, source.listing, "give the list of GitHub's API")
    return found


def _require_digests(listing: Mapping[str, str], place: str, advice: str) -> None:
    """Refuse a list whose digests are none, by which every photo would be another one."""
    for name, digest in listing.items():
        if not (isinstance(digest, str) and DIGEST.fullmatch(digest)):
            raise UserError(f"{place} must give git's digest of {name}, 40 digits, found {digest!r:.60}; {advice}")


def _is_there(file: Path, digest: str, listed: str = PUBLISHED) -> bool:
    if not os.path.lexists(file):
        return False
    require_plain(file, "the file")
    if _git_digest(file.read_bytes()) != digest:
        raise UserError(f"{file} has another digest than in {listed}")
    return True


def _git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _get(address: str) -> bytes:
    """Return the content at a URL.

    Raises:
        UserError: when it cannot be downloaded, with instructions for a manual download.
    """
    try:
        with urlopen(address, timeout=SECONDS) as answer:
            return bytes(answer.read())
    except (OSError, HTTPException, ValueError) as error:
        reason = f"it answers {error.code} {error.reason}" if isinstance(error, HTTPError) else _reason(error)
        by_hand = (
            "try again, or get github.com/google/dreambooth elsewhere and set paths.dreambooth to its folder dataset"
        )
        raise UserError(f"could not fetch from {urlsplit(address).netloc or address} ({reason}); {by_hand}") from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", error))


NAMES = (
    *("backpack", "backpack_dog", "bear_plushie", "berry_bowl", "can", "candle", "cat", "cat2", "clock"),
    *("colorful_sneaker", "dog", "dog2", "dog3", "dog5", "dog6", "dog7", "dog8", "duck_toy", "fancy_boot"),
    *("grey_sloth_plushie", "monster_toy", "pink_sunglasses", "poop_emoji", "rc_car", "red_cartoon", "robot_toy"),
    *("shiny_sneaker", "teapot", "vase", "wolf_plushie"),
)
FEWEST, MOST = 4, 6
"""Number of photos of a subject, as published."""
READABLE = 32
"""Resolution at which photos are read to check that they can be."""


def dreambooth_subject(path: str, **options: Any) -> Subject:
    """Return one of the 30 subjects, as `photo_subject` makes it with these options.

    Raises:
        UserError: when its folder does not exist, with instructions to get it; and as `photo_subject`.
    """
    if not Path(path).expanduser().is_dir():
        ways = "run quantbooth-data dreambooth, or set paths.dreambooth=DIR or subject.path=DIR"
        raise UserError(f"found no photos at {path}; {ways}")
    return photo_subject(path, **options)


def present(folder: Path) -> list[str]:
    """Return the names of the 30 subjects that a folder has.

    Raises:
        UserError: when it has none of them.
    """
    found = [name for name in NAMES if (folder / name).is_dir()]
    if not found:
        raise UserError(
            f"none of DreamBooth's subjects in {folder}; it must hold folders such as {NAMES[0]}, {NAMES[1]}"
        )
    return found


def check_photos(folder: Path) -> int:
    """Check that the photos of a subject's folder are readable, and return their number.

    Raises:
        UserError: for a photo that cannot be read, and for fewer than 4 or more than 6.
    """
    files = photo_files(folder)
    for file in files:
        read_photo(file, READABLE)
    if not FEWEST <= len(files) <= MOST:
        raise UserError(f"{folder} must hold {FEWEST} to {MOST} photos as published, found {len(files)}")
    return len(files)
