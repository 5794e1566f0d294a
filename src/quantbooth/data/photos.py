"""A subject from a folder of photos, and of masks beside them where there are any."""

import hashlib
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from quantbooth.data.pictures import FITS, read_mask, read_photo
from quantbooth.data.prompts import prompts_for
from quantbooth.data.subjects import Prompt, Subject
from quantbooth.errors import UserError

__all__ = ["SUFFIXES", "mask_files", "photo_files", "photo_subject"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MASK = "_mask"


def photo_subject(
    path: str,
    class_word: str | None,
    identifier: str,
    live: bool,
    resolution: int,
    name: str | None = None,
    templates: list[str] | None = None,
    fit: str = "crop",
) -> Subject:
    """A subject from a folder of photos of it.

    Args:
        path: the folder; ``NAME_mask.png`` says where in ``NAME.jpg`` the subject is (white), for local CLIP-I.
        class_word: what it is one of ("dog").
        identifier: the rare token that will mean it.
        live: whether DreamBooth's prompts for live subjects or for objects are asked.
        resolution: side of the square pictures, in pixels.
        name: its name in tables; the folder's name when not given.
        templates: own prompts instead, each with ``{}`` where the subject goes.
        fit: what becomes of a photo that is no square: crop, pad or squash.

    Raises:
        UserError: when the folder, its photos or the class word are missing, a photo or a mask cannot be used, or only
            some photos have masks.
    """
    if not class_word:
        raise UserError("subject.class_word must say what the subject is one of, for example subject.class_word=dog")
    if fit not in FITS:
        raise UserError(f"subject.fit must be one of {', '.join(FITS)}, got {fit!r}")
    files = photo_files(Path(path).expanduser())
    masks = mask_files(files)
    photos = torch.stack([read_photo(file, resolution, fit) for file in files])
    chosen = tuple(Prompt(text, "own") for text in templates) if templates else prompts_for(live)
    return Subject(
        name=name or Path(path).expanduser().resolve().name,
        class_word=class_word,
        identifier=identifier,
        photos=photos,
        references=photos,
        prompts=chosen,
        fingerprint=_fingerprint((class_word, identifier, resolution, fit, chosen, bool(masks)), files + masks),
        reference_masks=_read_masks(masks, files, resolution, fit) if masks else None,
    )


def photo_files(folder: Path) -> list[Path]:
    """The photos of a folder, by name; masks and hidden files left out."""
    if not folder.is_dir():
        raise UserError(f"subject.path must be a folder of photos, found no folder at {folder}")
    files = [file for file in _shown(folder) if not file.stem.endswith(MASK)]
    if not files:
        raise UserError(f"no photos in {folder}{_others(folder)}; put 3 to 6 pictures ({', '.join(SUFFIXES)}) there")
    return files


def mask_files(photos: list[Path]) -> list[Path]:
    """The mask of every photo of one folder, in their order; none where no photo has one.

    Raises:
        UserError: when a mask has no photo, or only some photos have masks: figures would be of two kinds.
    """
    masks = {file.stem.removesuffix(MASK): file for file in _shown(photos[0].parent) if file.stem.endswith(MASK)}
    for name, mask in masks.items():
        if name not in [photo.stem for photo in photos]:
            raise UserError(f"the mask {mask} has no photo; name it after one, as 1{MASK}.png for 1.jpg, or remove it")
    without = [photo.name for photo in photos if photo.stem not in masks]
    if masks and without:
        missing = f"{', '.join(without)} in {photos[0].parent} have none"
        raise UserError(f"all photos need a mask, or none of them: {missing}; add these or remove the others")
    return [masks[photo.stem] for photo in photos] if masks else []


def _shown(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))


def _others(folder: Path) -> str:
    """What lies there instead: phones write HEIC, which is not read."""
    names = sorted(f.name for f in folder.iterdir() if f.is_file() and f.suffix and not f.name.startswith("."))
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f", only {', '.join(names[:3])}{more} (other kinds, such as HEIC, must be exported as JPEG or PNG first)"


def _read_masks(masks: list[Path], photos: list[Path], resolution: int, fit: str) -> Bool[Tensor, "n h w"]:
    pairs = zip(masks, photos, strict=True)
    return torch.stack([read_mask(mask, photo, resolution, fit) for mask, photo in pairs])


def _fingerprint(settings: tuple[object, ...], files: list[Path]) -> str:
    digest = hashlib.sha256(repr(settings).encode())
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
