"""The one place where pictures are opened: plain files, of the formats named here, no larger than Pillow's limit.

Pillow finds the format by content, and starts other programs for some (Ghostscript for EPS, whatever the file's name).
"""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from quantbooth.runtime.errors import UserError
from quantbooth.store.files import require_plain

__all__ = ["FORMATS", "SUFFIXES", "frames_of", "opened"]

FORMATS = ("JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF")
"""Pillow's names of what is read; HEIC too where the extra [heic] is installed."""
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic", ".heif")
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, IndexError, KeyError, TypeError, OverflowError)
"""What Pillow raises for damaged files."""
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")


@contextmanager
def opened(file: Path, what: str = "the picture") -> Iterator[Image.Image]:
    """Open a picture; the block that uses it must do nothing but read it.

    Args:
        file: a plain file, or a link to one below the same folder.
        what: its name in messages.

    Raises:
        UserError: when it is no plain file, of another format, damaged or too large.
    """
    require_plain(file, what)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about photos as large as those of phones, and about damaged tags
            with Image.open(file, formats=_formats()) as picture:
                yield picture
    except Image.DecompressionBombError as error:
        limit = f"over {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.3g} megapixels"
        raise UserError(f"cannot read {what} {file}: it has {limit}; save it smaller") from error
    except UNREADABLE as error:
        raise UserError(f"cannot read {what} {file}: {_reason(file, error)}; remove it or save it again") from error


def frames_of(picture: Image.Image) -> int:
    """Return the number of frames or pages; the depth in a phone's JPEG (MPO) is none."""
    return 1 if picture.format == "MPO" else int(getattr(picture, "n_frames", 1))


@cache
def _formats() -> tuple[str, ...]:
    try:
        from pillow_heif import register_heif_opener  # noqa: PLC0415  # optional: the extra [heic]
    except ImportError:
        return FORMATS
    register_heif_opener()
    return (*FORMATS, "HEIF")


def _reason(file: Path, error: Exception) -> str:
    if not isinstance(error, UnidentifiedImageError):
        return " ".join(str(error).split()) or type(error).__name__
    with file.open("rb") as stream:
        head = stream.read(12)
    if head[4:8] == b"ftyp" and head[8:] in HEIC_BRANDS and "HEIF" not in _formats():
        return "it is HEIC; install pillow-heif, the extra [heic]"
    return f"it is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
