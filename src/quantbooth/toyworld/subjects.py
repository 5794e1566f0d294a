"""A personal subject's pictures: five to tune on, twenty held out."""

import numpy as np

from quantbooth.toyworld.cast import SUBJECTS, ToySubject
from quantbooth.toyworld.prompts import ToyPrompt, prompts, untouched
from quantbooth.toyworld.scenes import random_place
from quantbooth.toyworld.world import ACCESSORIES, CONTEXTS, Scene

__all__ = [
    "SUBJECTS",
    "ToyPrompt",
    "ToySubject",
    "held_out_scenes",
    "prompts",
    "tuning_scenes",
    "untouched",
]

TUNING_PICTURES = 5


def tuning_scenes(subject: ToySubject) -> list[Scene]:
    """Five scenes on five contexts, without accessory, each placed a little differently."""
    rng = _stream(subject, 0)
    start = list(SUBJECTS).index(subject.name)
    contexts = (CONTEXTS[(start + 2 * k) % len(CONTEXTS)] for k in range(TUNING_PICTURES))
    return [_scene(subject, context, None, rng) for context in contexts]


def held_out_scenes(subject: ToySubject) -> list[Scene]:
    """Twenty scenes no tuning sees: each context without accessory and with one."""
    rng = _stream(subject, 1)
    bare = [_scene(subject, context, None, rng) for context in CONTEXTS]
    worn = [_scene(subject, c, ACCESSORIES[k % len(ACCESSORIES)], rng) for k, c in enumerate(CONTEXTS)]
    return bare + worn


def _scene(subject: ToySubject, context: str, accessory: str | None, rng: np.random.Generator) -> Scene:
    x, y, size, tilt = random_place(rng)
    return Scene(
        class_word=subject.class_word,
        colour=subject.colour,
        second=subject.second,
        pattern=subject.pattern,
        context=context,
        accessory=accessory,
        emblem=subject.emblem,
        x=x,
        y=y,
        size=size,
        tilt=tilt,
        seed=int(rng.integers(2**31)),
    )


def _stream(subject: ToySubject, purpose: int) -> np.random.Generator:
    return np.random.default_rng([purpose, *subject.name.encode()])
