"""Grids of pictures, with a row per method and a column per prompt and noise; and contact sheets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path

import matplotlib
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from quantbooth.data.pictures import opened
from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Method, Study
from quantbooth.runtime.errors import UserError

__all__ = ["Grid", "GridRow", "choose_prompts", "contact_sheet", "grid", "grid_sheet", "stacked"]

PHOTO_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class GridRow:
    """One method's picture of each prompt; None where the method lacks the subject, or pictures are not kept."""

    method: Method
    label: str
    files: tuple[Path | None, ...]


@dataclass(frozen=True)
class Grid:
    """A subject's photos, the prompts with the class word and their kinds, and one row per method at its last step."""

    subject: str
    photos: tuple[Path, ...]
    prompts: tuple[str, ...]
    kinds: tuple[str, ...]
    noise_seed: int
    seed: int
    rows: tuple[GridRow, ...]

    @property
    def files(self) -> list[Path]:
        """Every photo and picture."""
        return [*self.photos, *(file for row in self.rows for file in row.files if file is not None)]


def choose_prompts(rows: pd.DataFrame, count: int | None = None) -> list[str]:
    """Return as many prompts, or all, taken from each kind in turn; listed kind by kind, in file order."""
    kinds = [list(group["prompt"].unique()) for _, group in rows.groupby("kind", sort=False)]
    in_turn = [prompt for turn in zip_longest(*map(_spread, kinds)) for prompt in turn if prompt is not None]
    chosen = set(in_turn[:count])
    return [prompt for kind in kinds for prompt in kind if prompt in chosen]


def grid(study: Study, subject: str, count: int | None = None) -> Grid:
    """Return the grid of a subject over all prompts, or over a few: lowest noise seed, lowest tuning seed.

    Raises:
        UserError: the study does not have the subject, or a picture that a row names is not there.
    """
    found = [result for result in study.results if result.subject == subject]
    if not found:
        raise UserError(f"a grid needs a subject of the study ({', '.join(study.subjects)}), got {subject!r}")
    rows = found[0].rows
    prompts = choose_prompts(rows, count)
    kind_of = dict(zip(rows["prompt"], rows["kind"], strict=True))
    noise, seed = int(rows["noise_seed"].min()), min(study.seeds)
    return Grid(
        subject,
        _photos(found),
        tuple(found[0].texts.get(prompt, prompt) for prompt in prompts),
        tuple(kind_of[prompt] for prompt in prompts),
        noise,
        seed,
        tuple(_row(study, method, subject, prompts, noise, seed) for method in study.methods),
    )


def _row(study: Study, method: Method, subject: str, prompts: list[str], noise: int, seed: int) -> GridRow:
    at = study.at(*study.last(method), subject)
    of_seed = [result for result in at if result.seed == seed or method.untuned]
    files = tuple(_file(of_seed[0], prompt, noise) if of_seed else None for prompt in prompts)
    return GridRow(method, study.label(method), files)


def _file(result: Result, prompt: str, noise: int) -> Path | None:
    if (prompt, noise) not in result.files:
        raise UserError(f"a grid needs noise seed {noise} of every prompt, {result.run} lacks it of {prompt!r}")
    file = result.files[prompt, noise]
    if not result.images.exists():
        return None
    if not file.is_file():
        raise UserError(f"the picture {file.name} of {result.run} is gone from its folder; sample it again")
    return file


def _photos(results: list[Result]) -> tuple[Path, ...]:
    folder = next((result.references for result in results if result.references is not None), None)
    if folder is None:
        return ()
    if not folder.is_dir():
        raise UserError(
            f"the photos of {results[0].subject} must be in {folder.name} of {folder.parent.name}, found none"
        )
    return tuple(sorted(file for file in folder.iterdir() if file.suffix.lower() in PHOTO_ENDINGS))


def _spread(items: list[str]) -> list[str]:
    """Return the items in a spread order (first, middle, then between), so that the first few differ much."""
    order: list[int] = []
    parts = 1
    while len(order) < len(items):
        order += [k for k in (i * len(items) // parts for i in range(parts)) if k not in order]
        parts *= 2
    return [items[k] for k in dict.fromkeys(order)]


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
    """Return rows of pictures by label under column headers; `above` are rows without headers.

    A picture smaller than a cell is enlarged by the largest integer factor; a larger one is reduced.
    None is a grey cell. With `label_width` long labels are small and wrapped.

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
    """Return a grid with the subject's photos above it."""
    photos = {"photos": list(grid.photos[: len(grid.prompts)])} if grid.photos else {}
    return contact_sheet({row.label: list(row.files) for row in grid.rows}, grid.prompts, cell, title, photos)


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Return the sheets below each other."""
    canvas = Image.new("RGB", (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)), PAPER)
    y = 0
    for sheet in sheets:
        canvas.paste(sheet, (0, y))
        y += sheet.height
    return canvas


@dataclass(frozen=True)
class _Labels:
    """Labels of rows: in one line, or wrapped at `limit` pixels."""

    font: ImageFont.FreeTypeFont
    limit: int | None = None

    def lines(self, label: str) -> list[str]:
        return [label] if self.limit is None else _wrapped(label, self.font, self.limit)

    def width(self, label: str) -> int:
        return max((int(self.font.getlength(line)) for line in self.lines(label)), default=0)


def _put_rows(
    sheet: Image.Image, rows: Mapping[str, Sequence[Picture]], left: int, top: int, cell: int, names: _Labels
) -> None:
    """Paint rows with their labels, from `top` down."""
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
    with opened(picture) as image:
        return image.convert("RGB")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which matplotlib ships, so that a sheet looks the same on every machine."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Return the text wrapped at `width` pixels; a longer word has its own line."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines
