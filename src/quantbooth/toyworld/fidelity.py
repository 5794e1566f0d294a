"""How well a toy base draws what it is asked for: held-out captions, and what the oracle sees in the pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from quantbooth.toyworld.captions import describe
from quantbooth.toyworld.scenes import Scene, random_scene

__all__ = ["HeldOut", "accuracies", "held_out_captions"]

JUDGED = ("class_word", "context", "accessory", "colour", "pattern")


@dataclass(frozen=True)
class HeldOut:
    """A caption of a scene that no training drew, with the attributes it names."""

    text: str
    asked: Mapping[str, str]
    scene: Scene


def held_out_captions(count: int, seed: int) -> list[HeldOut]:
    """Captions by (seed, i); attributes that a scene has but the caption leaves out are not asked for."""
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
    """Per attribute: share of the pictures asked for it in which the oracle's first guess is what was asked."""
    right: dict[str, list[bool]] = {}
    for place, wanted in enumerate(asked):
        for name, value in wanted.items():
            guess = names[name][int(probabilities[name][place].argmax())]
            right.setdefault(name, []).append(guess == value)
    return {name: sum(hits) / len(hits) for name, hits in right.items()}
