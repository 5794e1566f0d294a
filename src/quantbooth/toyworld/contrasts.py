"""Contrasts of the toy world: two full sentences that differ in everything a sentence can name."""

from collections.abc import Sequence

import numpy as np

from quantbooth.data.contrasts import Contrast
from quantbooth.toyworld.prompts import article
from quantbooth.toyworld.world import ACCESSORIES, CLASSES, COLOURS, CONTEXTS, PATTERNS

__all__ = ["full_contrasts"]

NAMED: dict[str, Sequence[str]] = {
    "context": CONTEXTS,
    "class_word": CLASSES,
    "colour": COLOURS,
    "pattern": PATTERNS[1:],
    "accessory": ACCESSORIES,
}


def full_contrasts(count: int, seed: int) -> tuple[Contrast, ...]:
    """Pair i is decided by (seed, i): two different words for every attribute, the noise seed i."""
    return tuple(_contrast(np.random.default_rng([seed, place]), place) for place in range(count))


def _contrast(rng: np.random.Generator, place: int) -> Contrast:
    drawn = {name: rng.choice(len(words), 2, replace=False) for name, words in NAMED.items()}
    words = {name: (NAMED[name][before], NAMED[name][after]) for name, (before, after) in drawn.items()}
    first, second = ({name: pair[side] for name, pair in words.items()} for side in (0, 1))
    return Contrast(_sentence(first), _sentence(second), place, words)


def _sentence(asked: dict[str, str]) -> str:
    noun = article(f"{asked['colour']} {asked['pattern']} {asked['class_word']}")
    return f"{noun} wearing {asked['accessory']} {asked['context']}"
