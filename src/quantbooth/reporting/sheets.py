"""A contact sheet: labelled rows of pictures on one canvas, small ones enlarged crisply; for documents and trackers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from quantbooth.errors import UserError
from quantbooth.reporting.grids import Grid

__all__ = ["contact_sheet", "grid_sheet", "stacked"]

Picture = Image.Image | Path | None
PAPER, TEXT, QUIET, EMPTY = "#fdfdfc", "#24292f", "#626a73", "#e9ebee"
GAP, EDGE = 6, 14
LABEL_SIZE, HEAD_SIZE, LEADING = 13, 11, 14


def contact_sheet(
    rows: Mapping[str, Sequence[Picture]],
    columns: Sequence[str] = (),
    cell: int = 96,
    title: str = "",
    above: Mapping[str, Sequence[Picture]] | None = None,
    label_width: int | None = None,
) -> Image.Image:
    """Rows of pictures by label, under column headers when given; `above` are rows the headers do not concern.

    A picture smaller than a cell is enlarged by the largest whole factor, pixel by pixel; a larger one is reduced.
    None leaves a grey cell. With `label_width` long labels are written small, in lines no wider.

    Raises:
        UserError: there is nothing to show.
    """
    free = above or {}
    width = max([len(columns), *(len(pictures) for pictures in (*free.values(), *rows.values()))], default=0)
    if width == 0:
        raise UserError("a contact sheet needs at least one picture, got none")
    font, small = _font(LABEL_SIZE), _font(HEAD_SIZE)
    heads = [_wrapped(text, small, cell) for text in columns]
    names = _Labels(font) if label_width is None else _Labels(small, label_width)
    left = EDGE + max((names.width(label) for label in (*free, *rows)), default=0) + 2 * GAP
    step = cell + GAP
    tall = max((len(lines) for lines in heads), default=0) * LEADING + (GAP if heads else 0)
    top = EDGE + (LABEL_SIZE + 2 * GAP if title else 0)
    body = top + len(free) * step + (GAP if free else 0) + tall
    sheet = Image.new("RGB", (left + width * step - GAP + EDGE, body + len(rows) * step - GAP + EDGE), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((EDGE, EDGE), title, TEXT, font=font)
    _put_rows(sheet, free, left, top, cell, names)
    _put_rows(sheet, rows, left, body, cell, names)
    for k, lines in enumerate(heads):
        for up, line in enumerate(reversed(lines)):
            draw.text((left + k * step, body - GAP - up * LEADING), line, QUIET, font=small, anchor="ls")
    return sheet


def grid_sheet(grid: Grid, cell: int = 96, title: str = "") -> Image.Image:
    """A grid with the subject's photos above it."""
    photos = {"photos": list(grid.photos[: len(grid.prompts)])} if grid.photos else {}
    return contact_sheet({row.label: list(row.files) for row in grid.rows}, grid.prompts, cell, title, photos)


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Sheets one below the other."""
    canvas = Image.new("RGB", (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)), PAPER)
    y = 0
    for sheet in sheets:
        canvas.paste(sheet, (0, y))
        y += sheet.height
    return canvas


@dataclass(frozen=True)
class _Labels:
    """How labels of rows are written: in one line, or in lines no wider than `limit` pixels."""

    font: ImageFont.FreeTypeFont
    limit: int | None = None

    def lines(self, label: str) -> list[str]:
        return [label] if self.limit is None else _wrapped(label, self.font, self.limit)

    def width(self, label: str) -> int:
        return max((int(self.font.getlength(line)) for line in self.lines(label)), default=0)


def _put_rows(
    sheet: Image.Image, rows: Mapping[str, Sequence[Picture]], left: int, top: int, cell: int, names: _Labels
) -> None:
    """Rows with their labels, from `top` down."""
    draw = ImageDraw.Draw(sheet)
    for k, (label, pictures) in enumerate(rows.items()):
        y = top + k * (cell + GAP)
        draw.text((EDGE, y + cell / 2), "\n".join(names.lines(label)), TEXT, font=names.font, anchor="lm")
        for j, picture in enumerate(pictures):
            _put(sheet, picture, left + j * (cell + GAP), y, cell)


def _put(sheet: Image.Image, picture: Picture, x: int, y: int, cell: int) -> None:
    if picture is None:
        sheet.paste(EMPTY, (x, y, x + cell, y + cell))
        return
    image = _opened(picture)
    longest = max(image.size)
    if longest <= cell:
        factor = cell // longest
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    else:
        image.thumbnail((cell, cell), Image.Resampling.LANCZOS)
    sheet.paste(image, (x + (cell - image.width) // 2, y + (cell - image.height) // 2))


def _opened(picture: Image.Image | Path) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    with Image.open(picture) as image:
        return image.convert("RGB")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib ships, so that a sheet looks the same everywhere."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The text in lines no wider than `width` pixels; a longer word stands alone."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines
