"""Held-out captions, questions and contrasts of the toy world, and the oracle's accuracy on pictures of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from quantbooth.data.questions import Contrast, Question, Questions
from quantbooth.runtime.progress import progress
from quantbooth_toyworld.captions import article, describe
from quantbooth_toyworld.scenes import random_scene, render
from quantbooth_toyworld.world import ACCESSORIES, CLASSES, COLOURS, CONTEXTS, PATTERNS, Scene

__all__ = ["HeldOut", "accuracies", "full_contrasts", "held_out_captions", "rendered_questions"]

JUDGED = ("class_word", "context", "accessory", "colour", "pattern")


@dataclass(frozen=True)
class HeldOut:
    """A caption of a scene that is not in the training data, with the attributes that it names."""

    text: str
    asked: Mapping[str, str]
    scene: Scene


def held_out_captions(count: int, seed: int) -> list[HeldOut]:
    """Draw captions by (seed, i); attributes that a caption omits are not asked for."""
    found = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        scene = random_scene(rng)
        caption = describe(scene, rng)
        asked = {name: str(getattr(scene, name)) for name in JUDGED if name in caption.named}
        found.append(HeldOut(caption.text, asked, scene))
    return found


def accuracies(
    probabilities: Mapping[str, Float[Tensor, "b _n"]],
    names: Mapping[str, tuple[str, ...]],
    asked: Sequence[Mapping[str, str]],
) -> dict[str, float]:
    """Return the oracle's accuracy per attribute, over the pictures whose caption asks for that attribute."""
    right: dict[str, list[bool]] = {}
    for place, wanted in enumerate(asked):
        for name, value in wanted.items():
            guess = names[name][int(probabilities[name][place].argmax())]
            right.setdefault(name, []).append(guess == value)
    return {name: sum(hits) / len(hits) for name, hits in right.items()}


MANY = 500


@lru_cache(maxsize=2)
def rendered_questions(count: int, seed: int) -> Questions:
    """Return questions of captions of held-out scenes (seed, i), with the rendered pictures and noise seed i.

    Cached, since every job of a sweep needs the same.
    """
    held = held_out_captions(count, seed)
    shown = progress(held, "rendering held-out scenes") if count >= MANY else held
    pixels = torch.stack([torch.from_numpy(render(caption.scene).image.copy()) for caption in shown])
    each = tuple(Question(caption.text, place, dict(caption.asked)) for place, caption in enumerate(held))
    return Questions(f"{count} captions of rendered scenes", each, pixels.permute(0, 3, 1, 2).float() / 255)


NAMED: dict[str, Sequence[str]] = {
    "context": CONTEXTS,
    "class_word": CLASSES,
    "colour": COLOURS,
    "pattern": PATTERNS[1:],
    "accessory": ACCESSORIES,
}


def full_contrasts(count: int, seed: int) -> tuple[Contrast, ...]:
    """Return pairs by (seed, i): full captions that differ in every attribute, with noise seed i."""
    return tuple(_contrast(np.random.default_rng([seed, place]), place) for place in range(count))


def _contrast(rng: np.random.Generator, place: int) -> Contrast:
    drawn = {name: rng.choice(len(words), 2, replace=False) for name, words in NAMED.items()}
    words = {name: (NAMED[name][before], NAMED[name][after]) for name, (before, after) in drawn.items()}
    first, second = ({name: pair[side] for name, pair in words.items()} for side in (0, 1))
    return Contrast(_sentence(first), _sentence(second), place, words)


def _sentence(asked: dict[str, str]) -> str:
    noun = article(f"{asked['colour']} {asked['pattern']} {asked['class_word']}")
    return f"{noun} wearing {asked['accessory']} {asked['context']}"
