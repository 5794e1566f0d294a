"""A subject from a folder of photos: upright, cropped to a square, every refusal naming its file."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from quantbooth.data.prompts import prompts_for
from quantbooth.data.subjects import Prompt, Subject
from quantbooth.errors import UserError

__all__ = ["photo_files", "photo_subject", "read_photo"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
SMALLEST = 16


def photo_subject(
    path: str,
    class_word: str,
    identifier: str,
    live: bool,
    resolution: int,
    name: str | None = None,
    templates: list[str] | None = None,
) -> Subject:
    """A subject from a folder of photos of it.

    Args:
        path: the folder; masks (``*_mask.png``) beside photos are not photos.
        class_word: what it is one of ("dog").
        identifier: the rare token that will mean it.
        live: whether DreamBooth's prompts for live subjects or for objects are asked.
        resolution: side of the square pictures, in pixels.
        name: its name in tables; the folder's name when not given.
        templates: own prompts instead, each with ``{}`` where the subject goes.

    Raises:
        UserError: when the folder, its photos or the class word are missing, or a photo cannot be read.
    """
    if not class_word:
        raise UserError("subject.class_word must say what the subject is one of, for example subject.class_word=dog")
    files = photo_files(Path(path).expanduser())
    photos = torch.stack([read_photo(file, resolution) for file in files])
    chosen = tuple(Prompt(text, "own") for text in templates) if templates else prompts_for(live)
    digest = hashlib.sha256(repr((class_word, identifier, resolution, chosen)).encode())
    for file in files:
        digest.update(file.read_bytes())
    return Subject(
        name=name or Path(path).resolve().name,
        class_word=class_word,
        identifier=identifier,
        photos=photos,
        references=photos,
        prompts=chosen,
        fingerprint=digest.hexdigest(),
    )


def photo_files(folder: Path) -> list[Path]:
    """The photos of a folder, by name; masks and hidden files left out."""
    if not folder.is_dir():
        raise UserError(f"subject.path must be a folder of photos, found no folder at {folder}")
    shown = (f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
    files = sorted(f for f in shown if not f.stem.endswith("_mask"))
    if not files:
        raise UserError(f"no photos in {folder}; put 3 to 6 pictures ({', '.join(SUFFIXES)}) there")
    return files


def read_photo(file: Path, resolution: int) -> Float[Tensor, "3 h w"]:
    """One photo in [0, 1]: turned upright by its EXIF tag, on white where transparent, centre-cropped, resized."""
    try:
        with Image.open(file) as opened:
            upright = ImageOps.exif_transpose(opened)
            picture = _on_white(upright)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read the photo {file}: {error}; remove it or save it again") from error
    if min(picture.size) < SMALLEST:
        raise UserError(f"the photo {file} is {picture.width}x{picture.height} pixels; at least {SMALLEST} are needed")
    square = ImageOps.fit(picture, (resolution, resolution), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(square, dtype=np.float32).transpose(2, 0, 1) / 255)


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
