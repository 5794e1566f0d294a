"""The same-noise grid: prompts down, settings across, small enough for a repository."""

import io
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from quantbooth.artifacts.damage import PICTURES, TRUTH
from quantbooth.reporting.damage_study import DamageStudy
from quantbooth.reporting.sheets import contact_sheet

__all__ = ["same_noise_grid"]

CELL = 64
LABEL_WIDTH = 170
BYTES = 300_000


def same_noise_grid(study: DamageStudy, shown: int) -> bytes:
    """A PNG of the first `shown` questions, or of as many (at least one) as fit into 300 kB: true pictures where they
    are known, float's, and each setting's of the same noise.
    """
    folders = {study.label(damage): damage.folder / PICTURES for damage in (study.reference, *study.settings)}
    if study.reference.truth is not None:
        folders = {"true": study.reference.folder / TRUTH} | folders
    rows = {label: [folder / file for folder in folders.values()] for label, file in _labelled(study, shown).items()}

    @cache
    def made(count: int) -> bytes:
        return _png(dict(list(rows.items())[:count]), list(folders))

    fitting = bisect_right(range(1, len(rows) + 1), BYTES, key=lambda count: len(made(count)))
    return made(max(fitting, 1))


def _labelled(study: DamageStudy, shown: int) -> dict[str, str]:
    """Files of the first questions by sentence, with the noise seed where a sentence comes again."""
    asked = study.reference.pictures[:shown]
    again = asked["text"].duplicated(keep=False)
    labels = asked["text"].where(~again, asked["text"] + ", seed " + asked["noise_seed"].astype(str))
    return dict(zip(labels, asked["file"], strict=True))


def _png(rows: Mapping[str, Sequence[Path]], columns: Sequence[str]) -> bytes:
    buffer = io.BytesIO()
    contact_sheet(rows, columns, CELL, label_width=LABEL_WIDTH).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
