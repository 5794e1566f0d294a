"""The columns of tables: title, meaning and number format."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["COSTS", "NOTHING", "SCORES", "CostColumn", "Score", "Unit", "score_named", "signed"]

NOTHING = "–"


@dataclass(frozen=True)
class Unit:
    """A unit: numbers are divided by `size` and written with `decimals`."""

    name: str
    size: float
    decimals: int

    def text(self, value: float) -> str:
        """Return the number in this unit, or a dash for none."""
        return NOTHING if math.isnan(value) else f"{value / self.size:,.{self.decimals}f}"


@dataclass(frozen=True)
class Score:
    """A score; higher is better, and `axis` describes higher values."""

    key: str
    title: str
    axis: str
    meaning: str
    unit: Unit = Unit("", 1, 3)

    def header(self) -> str:
        """Return the title with its unit."""
        return f"{self.title} ({self.unit.name})" if self.unit.name else self.title


@dataclass(frozen=True)
class CostColumn:
    """A cost; its unit is the largest in which no number of the column is below 1."""

    key: str
    title: str
    meaning: str
    units: tuple[tuple[str, float], ...] = (("", 1),)

    def unit(self, values: Iterable[float]) -> Unit:
        """Return the unit for these numbers, with one decimal if the smallest is below 10 and not whole."""
        known = [value for value in values if not math.isnan(value) and value > 0]
        least = min(known, default=1.0)
        name, size = max((u for u in self.units if u[1] <= least), key=lambda u: u[1], default=self.units[0])
        whole = all(float(value / size).is_integer() for value in known)
        return Unit(name, size, 0 if whole or least / size >= 10 else 1)

    def header(self, unit: Unit) -> str:
        """Return the title with its unit."""
        return f"{self.title} ({unit.name})" if unit.name else self.title


BYTES = (("B", 1), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9))

SCORES = (
    Score(
        "local_clip_i",
        "local CLIP-I",
        "resembles the subject",
        "Cosine between the subject's region of an image and that of each of the subject's own photos, averaged. The "
        "region is a square box with a 10 % margin that a locator draws; where it finds no subject the whole image "
        "is compared. The paper does not publish its definition; this one is ours.",
    ),
    Score(
        "clip_i",
        "CLIP-I",
        "resembles the photos",
        "The same cosine between whole images. Backgrounds count, so copying a photo scores high.",
    ),
    Score(
        "dino",
        "DINO",
        "resembles the photos (DINO)",
        "The same cosine between whole images by an encoder that learned from pictures alone.",
    ),
    Score(
        "local_dino",
        "local DINO",
        "resembles the subject (DINO)",
        "Its cosine between the regions that local CLIP-I compares.",
    ),
    Score(
        "clip_t",
        "CLIP-T",
        "follows the prompt",
        "Cosine between an image and its prompt, the identifier token left out.",
    ),
    Score(
        "oracle_subject",
        "subject (oracle)",
        "is the subject",
        "Mean probability a classifier of the toy world gives to the subject's own class, colours, pattern and emblem, "
        "unless the prompt changes them. It is trained separately from the scorer and never sees text.",
    ),
    Score(
        "oracle_prompt",
        "prompt (oracle)",
        "shows what was asked",
        "Mean probability the same classifier gives to what the prompt asks for: context, accessory, colour or "
        "pattern. Prompts that ask for nothing are left out.",
    ),
    Score(
        "diversity",
        "diversity",
        "varies with the seed",
        "One minus the mean cosine between images of one prompt: 0 when every seed gives the same image.",
    ),
    Score(
        "prior_kept",
        "prior kept",
        "leaves other prompts alone",
        "Cosine between an image and the untuned base's of the same noise, for prompts of other subjects. One minus it "
        "is the drift: what tuning did to everything else.",
    ),
    Score(
        "subject_found",
        "found",
        "subject found",
        "Share of images in which the locator found the subject.",
        Unit("%", 0.01, 0),
    ),
)

COSTS = (
    CostColumn("peak_memory_bytes", "peak memory", "Largest memory of the process while tuning.", BYTES),
    CostColumn("seconds", "tuning", "Wall time of tuning on the machine that made it.", (("s", 1),)),
    CostColumn("trainable", "trained", "Number of trained parameters."),
    CostColumn("file_bytes", "file", "Size of the subject's file.", BYTES),
    CostColumn("base_file_bytes", "base file", "Size of the base, shared by all subjects.", BYTES),
    CostColumn("samples_seen", "samples seen", "Images shown while tuning, repeats counted."),
    CostColumn(
        "samples_per_expert", "per expert", "How many of these each scale set learned from, in the order of the zones."
    ),
)


def score_named(key: str) -> Score:
    """Return the score with this key.

    Raises:
        ValueError: for an unknown key.
    """
    for score in SCORES:
        if score.key == key:
            return score
    raise ValueError(f"a score must be one of {', '.join(s.key for s in SCORES)}, got {key!r}")


def signed(value: float, unit: Unit) -> str:
    """Return a difference with its sign (a true minus); one that rounds to zero has none."""
    text = unit.text(abs(value))
    if float(text.replace(",", "")) == 0:
        return text
    return ("+" if value > 0 else "−") + text
