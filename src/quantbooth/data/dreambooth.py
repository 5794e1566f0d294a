"""The DreamBooth data set: 30 subjects with 4 to 6 photos each, and what must be true of a folder of them.

Ruiz et al. 2023 (arXiv 2208.12242), github.com/google/dreambooth; photos CC-BY 4.0 or under the Unsplash licence.
"""

import hashlib
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from quantbooth.data.photos import photo_files
from quantbooth.errors import UserError

__all__ = ["CLASSES", "LIVE", "SUMS", "URL", "check", "unpack", "write_sums"]

URL = "https://github.com/google/dreambooth/archive/refs/heads/main.zip"
SUMS = "SHA256SUMS"
PHOTOS = range(4, 7)
MEMBER = re.compile(r"[^/]+/dataset/(?P<subject>\w+)/(?P<file>\w+\.(?:jpg|jpeg|png))")
"""Names in the archive of the repository: those of photos, which cannot lead out of a folder."""
LARGEST = 50_000_000
"""Bytes of a photo; the published ones are far smaller."""

CLASSES = {
    **{"backpack": "backpack", "backpack_dog": "backpack", "bear_plushie": "stuffed animal", "berry_bowl": "bowl"},
    **{"can": "can", "candle": "candle", "cat": "cat", "cat2": "cat", "clock": "clock", "colorful_sneaker": "sneaker"},
    **{"dog": "dog", "dog2": "dog", "dog3": "dog", "dog5": "dog", "dog6": "dog", "dog7": "dog", "dog8": "dog"},
    **{"duck_toy": "toy", "fancy_boot": "boot", "grey_sloth_plushie": "stuffed animal", "monster_toy": "toy"},
    **{"pink_sunglasses": "glasses", "poop_emoji": "toy", "rc_car": "toy", "red_cartoon": "cartoon"},
    **{"robot_toy": "toy", "shiny_sneaker": "sneaker", "teapot": "teapot", "vase": "vase"},
    "wolf_plushie": "stuffed animal",
}
"""The class word of every subject."""
LIVE = ("cat", "dog")
"""Classes whose subjects are asked the prompts for live ones."""


def unpack(archive: Path, folder: Path) -> None:
    """Take the photos, and nothing else, out of the repository's archive.

    Raises:
        UserError: when it is no such archive.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                found = MEMBER.fullmatch(member.filename)
                if found and found["subject"] in CLASSES and member.file_size <= LARGEST:
                    place = folder / found["subject"] / found["file"]
                    place.parent.mkdir(exist_ok=True)
                    place.write_bytes(opened.read(member))
    except (zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{archive} must be a zip archive of {URL}, got a damaged file: {error}") from error


def check(folder: Path) -> tuple[dict[str, int], list[str]]:
    """What is in a folder of the data set: photos by subject, and everything that is wrong, a line each.

    A subject that is not there is not wrong. Where the folder has SHA256SUMS, files must be as they were then.

    Raises:
        UserError: when there is no such folder, or none of the subjects in it.
    """
    if not folder.is_dir():
        raise UserError(f"no folder at {folder}; quantbooth-data dreambooth makes one")
    present = [subject for subject in CLASSES if (folder / subject).is_dir()]
    if not present:
        raise UserError(f"{folder} holds none of the {len(CLASSES)} subjects, such as {folder / 'dog'}")
    counts, wrong = {}, list(_changed(folder))
    for subject in present:
        files = photo_files(folder / subject)
        counts[subject] = len(files)
        if len(files) not in PHOTOS:
            wrong.append(f"{subject} must have {PHOTOS[0]} to {PHOTOS[-1]} photos, found {len(files)}")
        wrong += [problem for file in files for problem in _unreadable(file)]
    return counts, wrong


def write_sums(folder: Path) -> None:
    """Keep the digest of every photo, to tell later whether one has changed."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{_digest(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    (folder / SUMS).write_text("".join(lines))


def _changed(folder: Path) -> Iterator[str]:
    if not (folder / SUMS).is_file():
        return
    for line in (folder / SUMS).read_text().splitlines():
        digest, _, name = line.partition("  ")
        if not (folder / name).is_file():
            yield f"{name} is listed in {SUMS} but not there"
        elif _digest(folder / name) != digest:
            yield f"{name} is not the file that {SUMS} lists"


def _unreadable(file: Path) -> Iterator[str]:
    try:
        with Image.open(file) as opened:
            opened.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        yield f"{file.parent.name}/{file.name} cannot be read as a picture: {error}"


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
