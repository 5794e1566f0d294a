"""The files of a folder of photos: which are learned, which are masks, and by name what is left out."""

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from quantbooth.data.pictures import SUFFIXES
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.progress import say
from quantbooth.store.files import require_plain

__all__ = ["mask_files", "photo_files"]

MASK = "_mask"
LIKE_A_MASK = re.compile(r"[-. _]?masks?", re.IGNORECASE)
"""What is left of the name of a mask without that of its photo, also where it is written otherwise."""
OTHER_PICTURES = (
    *(".avif", ".jxl", ".jp2", ".psd", ".svg", ".eps", ".pdf", ".tga", ".ico", ".ppm", ".xcf", ".exr", ".hdr"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw", ".pef", ".srw"),
)
"""Pictures of kinds that are not read: refused, since their owner means them to be learned."""
CAPTIONS = (".txt", ".caption")
OF_SYSTEMS = ("thumbs.db", "desktop.ini")
MOST_NAMED = 6


def photo_files(folder: Path) -> list[Path]:
    """Return the photos of a folder, sorted by name, without masks and hidden files; say what else is left out.

    Raises:
        UserError: when there is no photo, one is of a kind that is not read, two have one name, or two are the same.
    """
    if not folder.is_dir():
        raise UserError(f"subject.path must be a folder of photos, found no folder at {folder}")
    pictures, others = _sorted(folder)
    if strange := [file for file in others if file.suffix.lower() in OTHER_PICTURES]:
        raise UserError(f"{_named(strange)} in {folder} cannot be read; export as JPEG or PNG, or remove it")
    files = [file for file in pictures if not file.stem.endswith(MASK)]
    if not files:
        only = f", only {_named(others)}" if others else ""
        raise UserError(f"no photos in {folder}{only}; put 3 to 6 pictures ({', '.join(SUFFIXES)}) there")
    _require_distinct(files)
    _require_no_mask(files)
    if others:
        _say_left_out(folder, tuple(others))
    return files


def mask_files(photos: Sequence[Path]) -> list[Path]:
    """Return the mask of every photo of one folder, in their order; empty where no photo has one.

    Raises:
        UserError: when a mask has no photo, a photo has two masks, or only some photos have masks: the scores would
            not be comparable.
    """
    masks: dict[str, Path] = {}
    for file in _sorted(photos[0].parent)[0]:
        name = file.stem.removesuffix(MASK)
        if not file.stem.endswith(MASK):
            continue
        require_plain(file, "the mask")
        if name not in [photo.stem for photo in photos]:
            raise UserError(f"the mask {file} has no photo; name it after one, as 1{MASK}.png for 1.jpg, or remove it")
        if name in masks:
            raise UserError(f"a photo needs one mask, found {masks[name].name} and {file}; remove one")
        masks[name] = file
    without = [photo.name for photo in photos if photo.stem not in masks]
    if masks and without:
        missing = f"{', '.join(without)} in {photos[0].parent} have none"
        raise UserError(f"all photos need a mask, or none of them: {missing}; add these or remove the others")
    return [masks[photo.stem] for photo in photos] if masks else []


def _sorted(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the pictures of a folder by name, and everything else that is not hidden."""
    shown = sorted(f for f in folder.iterdir() if not f.name.startswith(".") and f.name.lower() not in OF_SYSTEMS)
    pictures = [file for file in shown if file.suffix.lower() in SUFFIXES]
    return pictures, [file for file in shown if file not in pictures]


def _require_distinct(files: Sequence[Path]) -> None:
    names: dict[str, Path] = {}
    contents: dict[bytes, Path] = {}
    for file in files:
        require_plain(file, "the photo")
        twin = names.setdefault(file.stem, file)
        if twin is not file:
            raise UserError(f"photos need different names before the dot, found {twin.name} and {file}; rename one")
        with file.open("rb") as stream:
            same = contents.setdefault(hashlib.file_digest(stream, "sha256").digest(), file)
        if same is not file:
            raise UserError(f"the photos {same.name} and {file} are the same; remove one")


def _require_no_mask(photos: Sequence[Path]) -> None:
    """Refuse photos that are named as masks but for the spelling, such as 1-mask.png or 1_MASK.png beside 1.jpg."""
    for file in photos:
        for photo in photos:
            left = file.stem.removeprefix(photo.stem)
            if left != file.stem and LIKE_A_MASK.fullmatch(left):
                wanted = f"{photo.stem}{MASK}{file.suffix}"
                raise UserError(f"{file} would be learned as a photo; name the mask of {photo.name} {wanted}")


@cache  # once a process, for every command reads the photos more than once
def _say_left_out(folder: Path, files: tuple[Path, ...]) -> None:
    captions = any(file.suffix.lower() in CAPTIONS for file in files)
    why = "; captions are not used, every photo has the same sentence" if captions else ""
    say(f"left out of the photos in {folder}: {_named(files)}{why}")


def _named(files: Sequence[Path]) -> str:
    names = [f"{file.name}/ (a folder)" if file.is_dir() else file.name for file in files]
    return ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
