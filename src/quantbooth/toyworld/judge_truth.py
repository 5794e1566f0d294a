"""What is true of a scene, as the judges are taught it: the oracle's right answers, the scorer's captions."""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from quantbooth.toyworld.captions import Caption, describe, words
from quantbooth.toyworld.world import ACCESSORIES, CLASSES, COLOURS, CONTEXTS, EMBLEMS, LAYOUTS, PATTERNS, Scene

__all__ = ["NONE", "ORACLE_NAMES", "answers", "full_caption", "scorer_caption", "scorer_words", "seen"]

NONE = "none"
ORACLE_NAMES: dict[str, tuple[str, ...]] = {
    "class_word": CLASSES,
    "context": CONTEXTS,
    "accessory": (NONE, *ACCESSORIES),
    "colour": COLOURS,
    "second": (NONE, *COLOURS),
    "pattern": PATTERNS + LAYOUTS,
    "emblem": (NONE, *EMBLEMS),
}
HALF = 0.5


def seen(scene: Scene) -> dict[str, str]:
    """What can be seen of a scene, by the oracle's names: a plain body shows no second colour."""
    found = {attribute: getattr(scene, attribute) or NONE for attribute in ORACLE_NAMES}
    return found | {"second": NONE} if scene.pattern == "plain" else found


def answers(scenes: Iterable[Scene]) -> dict[str, Int64[Tensor, "b"]]:
    """The oracle's right answers, as places in its names."""
    rows = [seen(scene) for scene in scenes]
    return {name: torch.tensor([found.index(row[name]) for row in rows]) for name, found in ORACLE_NAMES.items()}


def full_caption(scene: Scene, rng: np.random.Generator) -> Caption:
    """A caption that names everything about the scene that captions can name."""
    wanted = {"colour", "context"} | ({"pattern", "second"} if scene.pattern in PATTERNS[1:] else set())
    wanted |= {"accessory"} if scene.accessory is not None else set()
    while True:
        found = describe(scene, rng)
        if found.named >= wanted:
            return found


def scorer_caption(scene: Scene, rng: np.random.Generator) -> Caption:
    """What the scorer reads: every second caption is full, and every second emblem and layout is named.

    The base's captions never name the latter two; a published CLIP has read of hearts and halves. Naming them is not
    enough to make pictures differ by them, though: a removed emblem does not lower CLIP-I of the shipped scorer.
    """
    found = full_caption(scene, rng) if rng.random() < HALF else describe(scene, rng)
    text, named = found.text, set(found.named)
    if scene.pattern in LAYOUTS and rng.random() < HALF:
        text, named = f"{text} parted {scene.pattern} {scene.second}", named | {"pattern", "second"}
    if scene.emblem is not None and rng.random() < HALF:
        text, named = f"{text} marked {scene.emblem}", named | {"emblem"}
    return Caption(text, frozenset(named))


def scorer_words() -> tuple[str, ...]:
    """Every word the scorer knows: those of captions and prompts, and of the marks."""
    return tuple(sorted({*words(), "parted", "marked", *LAYOUTS, *EMBLEMS}))
