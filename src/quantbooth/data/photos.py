"""A subject from a folder of photos: upright, made square, masks beside them, every refusal naming its file."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from quantbooth.data.prompts import prompts_for
from quantbooth.data.subjects import Prompt, Subject
from quantbooth.errors import UserError

__all__ = ["photo_files", "photo_subject", "read_photo"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
SMALLEST = 16
MASK = "_mask.png"
FITS = {
    "crop": partial(ImageOps.fit, method=Image.Resampling.LANCZOS),
    "pad": partial(ImageOps.pad, method=Image.Resampling.LANCZOS, color="white"),
}
"""How a picture becomes square: its middle, or all of it on white."""


def photo_subject(
    path: str,
    class_word: str,
    identifier: str,
    live: bool,
    resolution: int,
    name: str | None = None,
    templates: list[str] | None = None,
    fit: str = "crop",
) -> Subject:
    """A subject from a folder of photos of it.

    Args:
        path: the folder; `NAME_mask.png` beside a photo says where in it the subject is (white).
        class_word: what it is one of ("dog").
        identifier: the rare token that will mean it.
        live: whether DreamBooth's prompts for live subjects or for objects are asked.
        resolution: side of the square pictures, in pixels.
        name: its name in tables; the folder's name when not given.
        templates: own prompts instead, each with ``{}`` where the subject goes.
        fit: one of FITS.

    Raises:
        UserError: when the folder, its photos or the class word are missing, or a photo or mask cannot be used.
    """
    if not class_word:
        raise UserError("subject.class_word must say what the subject is one of, for example subject.class_word=dog")
    if fit not in FITS:
        raise UserError(f"subject.fit must be one of {', '.join(FITS)}, got {fit!r}")
    files = photo_files(Path(path).expanduser())
    masks = mask_files(files)
    photos = torch.stack([read_photo(file, resolution, fit) for file in files])
    chosen = tuple(Prompt(text, "own") for text in templates) if templates else prompts_for(live)
    decided_by = (class_word, identifier, resolution, chosen, *([] if fit == "crop" else [fit]))
    digest = hashlib.sha256(repr(decided_by).encode())
    for file in (*files, *masks):
        digest.update(file.read_bytes())
    return Subject(
        name=name or Path(path).resolve().name,
        class_word=class_word,
        identifier=identifier,
        photos=photos,
        references=photos,
        prompts=chosen,
        fingerprint=digest.hexdigest(),
        masks=_masks(files, masks, resolution, fit) if masks else None,
    )


def photo_files(folder: Path) -> list[Path]:
    """The photos of a folder, by name; masks and hidden files left out."""
    if not folder.is_dir():
        raise UserError(
            f"subject.path must be a folder of photos, found no folder at {folder}; quantbooth-data dreambooth fetches "
            "DreamBooth's, paths.dreambooth=DIR says where they are"
        )
    shown = (f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
    files = sorted(f for f in shown if not f.name.endswith(MASK))
    if not files:
        others = sorted({f.suffix.lower() for f in folder.iterdir() if f.suffix and not f.name.startswith(".")})
        seen = f", only {', '.join(others)}, which must be saved as another kind first" if others else ""
        raise UserError(f"no photos in {folder}{seen}; put 3 to 6 pictures ({', '.join(SUFFIXES)}) there")
    return files


def mask_files(photos: Sequence[Path]) -> list[Path]:
    """The mask of every photo, or none.

    Raises:
        UserError: when some photos have one and others have not, or a mask has no photo.
    """
    found = [photo.with_name(f"{photo.stem}{MASK}") for photo in photos]
    there = [mask for mask in found if mask.is_file()]
    strange = sorted(set(photos[0].parent.glob(f"*{MASK}")) - set(found))
    if strange:
        raise UserError(
            f"the mask {strange[0]} has no photo {strange[0].name.removesuffix(MASK)}.*; remove or rename it"
        )
    for file, mask in zip(photos, found, strict=True):
        if there and mask not in there:
            raise UserError(f"{file} has no mask {mask.name}, others have one; give all photos a mask, or none")
    return there


def read_photo(file: Path, resolution: int, fit: str = "crop") -> Float[Tensor, "3 h w"]:
    """One photo in [0, 1]: turned upright by its EXIF tag, on white where transparent, made square, resized."""
    picture = _on_white(_opened(file, "photo"))
    if min(picture.size) < SMALLEST:
        raise UserError(f"the photo {file} is {picture.width}x{picture.height} pixels; at least {SMALLEST} are needed")
    square = FITS[fit](picture, size=(resolution, resolution))
    return torch.from_numpy(np.asarray(square, dtype=np.float32).transpose(2, 0, 1) / 255)


def _masks(photos: Sequence[Path], masks: Sequence[Path], resolution: int, fit: str) -> Bool[Tensor, "n h w"]:
    """Where masks are at least half white, made square as the photos are."""
    read = []
    for photo, file in zip(photos, masks, strict=True):
        mask, size = _opened(file, "mask").convert("L"), _opened(photo, "photo").size
        if mask.size != size:
            raise UserError(f"the mask {file} is {mask.width}x{mask.height} pixels, its photo {size[0]}x{size[1]}")
        options = {"color": 0} if fit == "pad" else {}
        square = FITS[fit](mask, size=(resolution, resolution), **options)
        read.append(torch.from_numpy(np.asarray(square, dtype=np.uint8) >= 128))
        if not read[-1].any():
            raise UserError(f"the mask {file} marks nothing of what is left of its photo; white is the subject")
    return torch.stack(read)


def _opened(file: Path, what: str) -> Image.Image:
    """The picture, read whole and turned upright."""
    try:
        with Image.open(file) as opened:
            opened.load()
            return ImageOps.exif_transpose(opened)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read the {what} {file}: {error}; remove it or save it again") from error


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        values = np.asarray(picture, dtype=np.float32)
        grey = (values / _white(picture.mode, values) * 255).clip(0, 255).round().astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if picture.mode == "P" or picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return picture.convert("RGB")


def _white(mode: str, values: np.ndarray) -> float:
    """The value that is white: 16-bit files say so, the others show it by the range they use."""
    if mode == "F" and values.max() <= 1:
        return 1
    return 255 if values.max() <= 255 and not mode.startswith("I;16") else 65535
