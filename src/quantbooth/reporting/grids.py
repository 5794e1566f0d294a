"""The picture grid of a subject: methods down, prompts across, every picture of a column from the same noise."""

from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import pandas as pd

from quantbooth.errors import UserError
from quantbooth.reporting.claims import last
from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Arm, Study

__all__ = ["Grid", "GridRow", "choose_prompts", "grid"]

PHOTO_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class GridRow:
    """One method's picture of each prompt; None for all where the method lacks the subject."""

    arm: Arm
    label: str
    files: tuple[Path | None, ...]


@dataclass(frozen=True)
class Grid:
    """A subject's photos, the prompts with their kinds, and one row per method at its last step."""

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


def choose_prompts(rows: pd.DataFrame, count: int) -> list[str]:
    """As many prompts, taken from each kind in turn so that every kind occurs; listed kind by kind, in file order."""
    kinds = [list(group["prompt"].unique()) for _, group in rows.groupby("kind", sort=False)]
    in_turn = [prompt for turn in zip_longest(*map(_spread, kinds)) for prompt in turn if prompt is not None]
    chosen = set(in_turn[:count])
    return [prompt for kind in kinds for prompt in kind if prompt in chosen]


def grid(study: Study, subject: str, count: int = 8) -> Grid:
    """The grid of a subject: lowest noise seed, lowest tuning seed.

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
        tuple(prompts),
        tuple(kind_of[prompt] for prompt in prompts),
        noise,
        seed,
        tuple(_row(study, arm, subject, prompts, noise, seed) for arm in study.arms),
    )


def _row(study: Study, arm: Arm, subject: str, prompts: list[str], noise: int, seed: int) -> GridRow:
    at = study.at(arm, last(study, arm), subject)
    of_seed = [result for result in at if result.seed == seed or arm.untuned]
    files = tuple(_file(of_seed[0], prompt, noise) if of_seed else None for prompt in prompts)
    return GridRow(arm, study.label(arm), files)


def _file(result: Result, prompt: str, noise: int) -> Path:
    if (prompt, noise) not in result.files:
        raise UserError(f"a grid needs noise seed {noise} of every prompt, {result.run} lacks it of {prompt!r}")
    file = result.files[prompt, noise]
    if not file.is_file():
        raise UserError(f"the picture {file.name} of {result.run} is gone from its folder; sample it again")
    return file


def _photos(results: list[Result]) -> tuple[Path, ...]:
    folder = next((result.references for result in results if result.references is not None), None)
    if folder is None:
        return ()
    if not folder.is_dir():
        raise UserError(
            f"the photos of {results[0].subject} must lie in {folder.name} of {folder.parent.name}, got none"
        )
    return tuple(sorted(file for file in folder.iterdir() if file.suffix.lower() in PHOTO_ENDINGS))


def _spread(items: list[str]) -> list[str]:
    """The same items, far ones first (first, middle, then between), so that a few of them differ much."""
    order: list[int] = []
    parts = 1
    while len(order) < len(items):
        order += [k for k in (i * len(items) // parts for i in range(parts)) if k not in order]
        parts *= 2
    return [items[k] for k in dict.fromkeys(order)]
