"""A subject from a folder of photos and optional masks, each read upright, in 8-bit RGB, and made square."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageOps
from torch import Tensor

from quantbooth.data.photo_folder import mask_files, photo_files
from quantbooth.data.pictures import frames_of, opened
from quantbooth.data.prompts import prompts_for
from quantbooth.data.subjects import Prompt, Subject
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.progress import say

__all__ = ["FITS", "photo_subject", "read_mask", "read_photo"]

SMALLEST = 16
ENLARGED = 4
"""Largest factor by which a photo is enlarged; beyond it the model would learn the blur."""
LONGEST = 8
"""Largest aspect ratio of a photo; beyond it no square shows the subject."""
Square = Callable[[Image.Image, int, Image.Resampling], Image.Image]
FITS: dict[str, Square] = {
    "crop": lambda picture, side, method: ImageOps.fit(picture, (side, side), method),
    "pad": lambda picture, side, method: ImageOps.pad(picture, (side, side), method, color=_blank(picture)),
    "squash": lambda picture, side, method: picture.resize((side, side), method),
}
"""Ways to make a picture square: crop the centre, pad with blank bars, or squash."""


def read_photo(file: Path, resolution: int, fit: str = "crop") -> Float[Tensor, "3 h w"]:
    """Read a photo in [0, 1]: rotated by its EXIF tag, white where transparent, made square, resized.

    Args:
        file: a picture with a single frame.
        resolution: side of the square, in pixels.
        fit: a key of `FITS`.

    Raises:
        UserError: for a file that cannot be read, is animated, too small to enlarge, or too long to make square.
    """
    picture = _opened(file, "white")
    _check_size(picture, file, max(SMALLEST, resolution // ENLARGED))
    square = FITS[fit](picture, resolution, Image.Resampling.LANCZOS)
    pixels = np.asarray(square, dtype=np.float32)
    if (pixels == pixels[0, 0]).all():
        say(f"warning: {file} is of one colour, so it shows nothing of a subject")
    return torch.from_numpy(pixels.transpose(2, 0, 1) / 255)


def read_mask(file: Path, photo: Path, resolution: int, fit: str = "crop") -> Bool[Tensor, "h w"]:
    """Read the subject's mask in the frame of `read_photo`: True where the upright mask is lighter than half.

    Raises:
        UserError: when the mask does not have the shape of its upright photo, or is empty inside the square.
    """
    mask, size = _opened(file, "black").convert("L"), _opened(photo, "white").size
    if abs(mask.width * size[1] - mask.height * size[0]) > max(size):  # one pixel, rounded
        seen = f"{mask.width}x{mask.height} pixels, the photo {photo.name} {size[0]}x{size[1]} when upright"
        raise UserError(f"the mask {file} has another shape than its photo: it is {seen}; draw it on the photo as seen")
    whole = mask.point(lambda value: 255 * (value > 127)).resize(size, Image.Resampling.NEAREST)
    square = np.array(FITS[fit](whole, resolution, Image.Resampling.NEAREST)) > 0
    if not square.any():
        cause = "its subject is outside the centre; set subject.fit=pad" if whole.getbbox() else "it is empty"
        raise UserError(f"the mask {file} shows nothing of the subject: {cause}")
    return torch.from_numpy(square)


def _opened(file: Path, background: str) -> Image.Image:
    """Open a picture upright in RGB, with the background's colour where it is transparent.

    Raises:
        UserError: when it cannot be read or is animated.
    """
    with opened(file, "the photo") as picture:
        frames = frames_of(picture)
        upright = _plain_colours(ImageOps.exif_transpose(picture), background)
    if frames > 1:
        raise UserError(f"the photo {file} is animated or has {frames} pages; save the one to learn as PNG or JPEG")
    return upright


def _check_size(picture: Image.Image, file: Path, least: int) -> None:
    about = f"the photo {file} is {picture.width}x{picture.height} pixels"
    if min(picture.size) < least:
        raise UserError(f"{about}; at least {least} are needed")
    if max(picture.size) > LONGEST * min(picture.size):
        raise UserError(f"{about}, over {LONGEST} times as long as wide; cut it to what shows the subject")


def _plain_colours(picture: Image.Image, background: str) -> Image.Image:
    """Convert a picture to 8-bit RGB, with the background's colour where it is transparent."""
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        values = np.asarray(picture, dtype=np.float32)
        if not np.isfinite(values).all():
            raise ValueError("some of its values are no numbers")
        grey = (values / _white(picture.mode, values) * 255).clip(0, 255).round().astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if picture.mode == "P" or picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba).convert("RGB")
    return picture.convert("RGB")


def _white(mode: str, values: np.ndarray) -> float:
    """Return the value of white: fixed for 16-bit files, for the others by the range of their values."""
    if mode == "F" and values.max() <= 1:
        return 1
    return 255 if values.max() <= 255 and not mode.startswith("I;16") else 65535


def _blank(picture: Image.Image) -> str:
    """Return the colour of padding: white for a photo, black for a mask."""
    return "white" if picture.mode == "RGB" else "black"


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
    """Return a subject from a folder of its photos.

    Args:
        path: the folder; ``NAME_mask.png`` marks the subject in ``NAME.jpg`` (white), for local CLIP-I.
        class_word: its class ("dog").
        identifier: the rare token that will denote it.
        live: use DreamBooth's prompts for live subjects instead of those for objects.
        resolution: side of the square pictures, in pixels.
        name: its name in tables; the folder's name by default.
        templates: prompts to use instead, each with ``{}`` for the subject.
        fit: how a photo is made square: crop, pad or squash.

    Raises:
        UserError: when the folder or its photos are missing, a photo or a mask cannot be used, or only some photos have
            masks.
    """
    files = photo_files(Path(path).expanduser())
    masks = mask_files(files)
    photos = torch.stack([read_photo(file, resolution, fit) for file in files])
    _require_different(photos, files)
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


def _require_different(photos: Float[Tensor, "n 3 h w"], files: list[Path]) -> None:
    """Refuse a photo that is there twice, in two formats or with other tags."""
    seen: dict[bytes, Path] = {}
    for photo, file in zip(photos, files, strict=True):
        if (twin := seen.setdefault(photo.numpy().tobytes(), file)) is not file:
            raise UserError(f"the photos {twin.name} and {file} show the same; remove one")


def _read_masks(masks: list[Path], photos: list[Path], resolution: int, fit: str) -> Bool[Tensor, "n h w"]:
    pairs = zip(masks, photos, strict=True)
    return torch.stack([read_mask(mask, photo, resolution, fit) for mask, photo in pairs])


def _fingerprint(settings: tuple[object, ...], files: list[Path]) -> str:
    digest = hashlib.sha256(repr(settings).encode())
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
