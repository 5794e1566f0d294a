"""Scenes to learn the world from, drawn at random with the personal subjects' combinations left out."""

import numpy as np

from quantbooth.toyworld.cast import held_out_emblems, held_out_layouts
from quantbooth.toyworld.render import PIXELS, Rendered, render
from quantbooth.toyworld.world import (
    ACCESSORIES,
    CLASSES,
    COLOURS,
    CONTEXTS,
    EMBLEMS,
    LAYOUTS,
    PATTERNS,
    Scene,
)

__all__ = [
    "ACCESSORIES",
    "CLASSES",
    "COLOURS",
    "CONTEXTS",
    "EMBLEMS",
    "LAYOUTS",
    "PATTERNS",
    "PIXELS",
    "Rendered",
    "Scene",
    "random_place",
    "random_scene",
    "render",
]

PLAIN_SHARE = 0.40
PATTERNED_SHARE = 0.45
EMBLEM_SHARE = 0.20
ACCESSORY_SHARE = 0.40


def random_scene(rng: np.random.Generator, held_out: bool = True) -> Scene:
    """A scene of the pre-training distribution.

    The body is plain in 40 % of scenes, striped, dotted or checked in 45 % together, in a two-colour layout in 15 %.
    An emblem is on 20 %, on plain bodies and layouts only; an accessory is on 40 %.

    With `held_out`, no (class, emblem) and no (class, layout) pair of a personal subject occurs: the emblem or layout
    is drawn among the others, so a class shows four or five of the six emblems and one or two of the three layouts.
    What does occur is every emblem and every layout on *other* classes, and every class in the subjects' colours:
    a subject is a new combination of known parts, not a new part.
    """
    class_word = _pick(rng, CLASSES)
    pattern = _pattern(rng, class_word, held_out)
    colour, second = (COLOURS[i] for i in rng.permutation(len(COLOURS))[:2])
    x, y, size, tilt = random_place(rng)
    return Scene(
        class_word=class_word,
        colour=colour,
        second=second,
        pattern=pattern,
        context=_pick(rng, CONTEXTS),
        accessory=_pick(rng, ACCESSORIES) if rng.random() < ACCESSORY_SHARE else None,
        emblem=_emblem(rng, class_word, pattern, held_out),
        x=x,
        y=y,
        size=size,
        tilt=tilt,
        seed=int(rng.integers(2**31)),
    )


def random_place(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Centre x and y in [0.46, 0.56), size in [0.70, 0.80) of the frame, tilt in [-4, 4) degrees."""
    x, y, size, tilt = rng.random(4).tolist()
    return 0.46 + 0.1 * x, 0.46 + 0.1 * y, 0.70 + 0.1 * size, 8 * tilt - 4


def _pattern(rng: np.random.Generator, class_word: str, held_out: bool) -> str:
    draw = rng.random()
    if draw < PLAIN_SHARE:
        return "plain"
    if draw < PLAIN_SHARE + PATTERNED_SHARE:
        return _pick(rng, PATTERNS[1:])
    banned = held_out_layouts() if held_out else frozenset()
    return _pick(rng, tuple(layout for layout in LAYOUTS if (class_word, layout) not in banned))


def _emblem(rng: np.random.Generator, class_word: str, pattern: str, held_out: bool) -> str | None:
    if pattern in PATTERNS[1:] or rng.random() >= EMBLEM_SHARE / (1 - PATTERNED_SHARE):
        return None
    banned = held_out_emblems() if held_out else frozenset()
    return _pick(rng, tuple(emblem for emblem in EMBLEMS if (class_word, emblem) not in banned))


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]
