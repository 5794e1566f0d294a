"""A picture as text inside a page: its bytes in base64, and the size it is shown at."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from quantbooth.errors import UserError

__all__ = ["SHOWN", "Embedded", "embedded"]

SMALL = 128
SHOWN, SHOWN_LARGE = 96, 192


@dataclass(frozen=True)
class Embedded:
    """A data address, the width and height in CSS pixels in a grid, and whether pixels are to stay visible."""

    uri: str
    width: int
    height: int
    crisp: bool


def embedded(file: Path) -> Embedded:
    """The picture as PNG at its own size; small ones are shown enlarged by a whole factor, large ones reduced.

    Raises:
        UserError: the file cannot be read as a picture.
    """
    try:
        with Image.open(file) as image:
            width, height = image.size
            data = file.read_bytes() if image.format == "PNG" else _as_png(image)
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{file.name} in {file.parent.name} cannot be read as a picture: {error}") from error
    longest = max(width, height)
    factor = max(SHOWN // longest, 1) if longest <= SMALL else min(1.0, SHOWN_LARGE / longest)
    uri = "data:image/png;base64," + base64.b64encode(data).decode("ascii")
    return Embedded(uri, round(width * factor), round(height * factor), longest <= SMALL)


def _as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()
