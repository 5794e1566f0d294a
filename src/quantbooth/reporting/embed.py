"""Pictures embedded in a page: base64, smaller files where there are many, and the displayed size."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from quantbooth.data.pictures import opened
from quantbooth.runtime.errors import UserError

__all__ = ["AS_THEY_ARE", "SHOWN", "Embedded", "Encoding", "embedded", "encoding_for"]

SMALL = 128
SHOWN, SHOWN_LARGE = 96, 192
BUDGET = 12_000_000
"""Budget for the pictures of a page, in bytes of base64."""
TEXT = 4 / 3
TRIED = 24
KEPT = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


@dataclass(frozen=True)
class Encoding:
    """The encoding of embedded pictures: unchanged, or WebP of this quality with sides up to `side` pixels."""

    side: int | None = None
    quality: int | None = None


AS_THEY_ARE = Encoding()
LIGHTER = (
    Encoding(None, 90),
    Encoding(512, 85),
    Encoding(384, 80),
    Encoding(256, 80),
    Encoding(192, 75),
    Encoding(128, 70),
    Encoding(96, 60),
)


@dataclass(frozen=True)
class Embedded:
    """A data URI, width and height in CSS pixels in a grid, and whether to show pixels without smoothing."""

    uri: str
    width: int
    height: int
    crisp: bool


def encoding_for(files: Sequence[Path], budget: int = BUDGET) -> Encoding:
    """Return the best encoding with which all pictures fit into a page, estimated from some of them.

    Raises:
        UserError: a file cannot be read as a picture.
    """
    try:
        whole = sum(file.stat().st_size for file in files)
    except OSError as error:
        raise UserError(f"a picture cannot be read: {error}") from error
    if whole * TEXT <= budget:
        return AS_THEY_ARE
    tried = files[:: max(len(files) // TRIED, 1)]
    for encoding in LIGHTER:
        if sum(len(_bytes(file, encoding)[0]) for file in tried) / len(tried) * len(files) * TEXT <= budget:
            return encoding
    return LIGHTER[-1]


def embedded(file: Path, encoding: Encoding = AS_THEY_ARE) -> Embedded:
    """Return the embedded picture; small ones are enlarged by an integer factor, large ones reduced.

    Raises:
        UserError: the file cannot be read as a picture.
    """
    data, kind, (width, height) = _bytes(file, encoding)
    longest = max(width, height)
    factor = max(SHOWN // longest, 1) if longest <= SMALL else min(1.0, SHOWN_LARGE / longest)
    uri = f"data:{kind};base64," + base64.b64encode(data).decode("ascii")
    return Embedded(uri, round(width * factor), round(height * factor), longest <= SMALL)


def _bytes(file: Path, encoding: Encoding) -> tuple[bytes, str, tuple[int, int]]:
    """Return the bytes to embed, their media type, and the size of the picture in its file."""
    with opened(file) as image:
        size = image.size
        if encoding != AS_THEY_ARE:
            return _webp(image, encoding), KEPT["WEBP"], size
        if image.format in KEPT:
            image.load()
            return file.read_bytes(), KEPT[image.format], size
        return _saved(image.convert("RGB"), "PNG"), KEPT["PNG"], size


def _webp(image: Image.Image, encoding: Encoding) -> bytes:
    small = image.convert("RGB")
    if encoding.side is not None:
        small.thumbnail((encoding.side, encoding.side), Image.Resampling.LANCZOS)
    return _saved(small, "WEBP", quality=encoding.quality)


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()
