"""Sentences about scenes: attributes are left out at random, emblems and layouts always."""

from dataclasses import dataclass

import numpy as np

from quantbooth.toyworld.cast import SUBJECTS
from quantbooth.toyworld.prompts import article, prompts
from quantbooth.toyworld.world import (
    ACCESSORIES,
    CLASSES,
    COLOURS,
    CONTEXTS,
    IDENTIFIERS,
    PATTERNS,
    Scene,
)

__all__ = ["FRAMES", "IDENTIFIERS", "Caption", "caption", "describe", "words"]

FRAMES = ("{}", "a photo of {}", "a picture of {}", "a good photo of {}")
FRAME_SHARES = (0.40, 0.40, 0.10, 0.10)
WEARING = ("wearing", "with")
COMMON_SHARE = 0.68
PATTERN_SHARE = 0.85
ACCESSORY_SHARE = 0.85
PLAIN_SHARE = 0.15
SECOND_SHARE = 0.5
IDENTIFIER_SHARE = 0.03


@dataclass(frozen=True)
class Caption:
    """A sentence and which attributes of the scene (by field name) it names."""

    text: str
    named: frozenset[str]


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A sentence about the scene."""
    return describe(scene, rng).text


def describe(scene: Scene, rng: np.random.Generator) -> Caption:
    """A sentence about the scene and what it names.

    The class is always named; colour and context in 68 %, a captioned pattern and an accessory that are there in 85 %,
    the second colour of a pattern in half of the sentences that name both, "plain" in 15 % of the bodies that are
    nothing else. In 3 % an identifier that means nothing stands before the class. Layouts and emblems are never named.
    """
    named = _named(scene, rng)
    text = article(_noun(scene, named, rng))
    if "accessory" in named:
        text += f" {WEARING[int(rng.random() < 0.25)]} {scene.accessory}"
    if "context" in named:
        text += f" {scene.context}"
    frame = FRAMES[int(np.searchsorted(np.cumsum(FRAME_SHARES)[:-1], rng.random(), side="right"))]
    return Caption(frame.format(text), named)


def words() -> tuple[str, ...]:
    """Every word that a caption or an evaluation prompt can contain, sorted."""
    phrases = (*FRAMES, *WEARING, *CLASSES, *COLOURS, *PATTERNS, *CONTEXTS, *ACCESSORIES, *IDENTIFIERS, "a an and")
    asked = (prompt.template for subject in SUBJECTS.values() for prompt in prompts(subject))
    return tuple(sorted({word for phrase in (*phrases, *asked) for word in phrase.split()} - {"{}"}))


def _named(scene: Scene, rng: np.random.Generator) -> frozenset[str]:
    """Which attributes to name; five numbers are drawn whatever the scene."""
    colour, context, pattern, accessory, second = rng.random(5)
    named = {"class_word"}
    if colour < COMMON_SHARE:
        named.add("colour")
    if context < COMMON_SHARE:
        named.add("context")
    if pattern < _pattern_share(scene):
        named.add("pattern")
    if scene.accessory is not None and accessory < ACCESSORY_SHARE:
        named.add("accessory")
    if named >= {"colour", "pattern"} and scene.pattern != "plain" and second < SECOND_SHARE:
        named.add("second")
    return frozenset(named)


def _pattern_share(scene: Scene) -> float:
    if scene.pattern in PATTERNS[1:]:
        return PATTERN_SHARE
    return PLAIN_SHARE if scene.pattern == "plain" and scene.emblem is None else 0.0


def _noun(scene: Scene, named: frozenset[str], rng: np.random.Generator) -> str:
    parts = [scene.colour] if "colour" in named else []
    if "second" in named:
        parts += ["and", scene.second]
    if "pattern" in named:
        parts = [scene.pattern, *parts] if scene.pattern == "plain" else [*parts, scene.pattern]
    if rng.random() < IDENTIFIER_SHARE:
        parts.append(IDENTIFIERS[int(rng.integers(len(IDENTIFIERS)))])
    return " ".join([*parts, scene.class_word])
