"""Rendered scenes in bulk, for the judges to learn from and to be measured on."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from quantbooth.toyworld.render import render
from quantbooth.toyworld.scenes import random_place, random_scene
from quantbooth.toyworld.subjects import SUBJECTS, held_out_scenes, tuning_scenes
from quantbooth.toyworld.world import ACCESSORIES, CLASSES, COLOURS, CONTEXTS, EMBLEMS, LAYOUTS, PATTERNS, Scene

__all__ = ["ScenePool", "independent_scenes", "pictures", "random_scenes", "render_pool", "subject_scenes"]

EVEN = 0.5  # share of scenes for the oracle that have an accessory, and that have an emblem


@dataclass(frozen=True)
class ScenePool:
    """Rendered scenes, kept as bytes: to render a scene costs about as much as to train on it once."""

    images: UInt8[Tensor, "n 3 32 32"]
    masks: Bool[Tensor, "n 32 32"]
    scenes: tuple[Scene, ...]


def render_pool(scenes: Iterable[Scene]) -> ScenePool:
    """Every scene rendered once, in order."""
    drawn = [render(scene) for scene in scenes]
    images = torch.from_numpy(np.stack([picture.image for picture in drawn])).permute(0, 3, 1, 2).contiguous()
    masks = torch.from_numpy(np.stack([picture.mask for picture in drawn]))
    return ScenePool(images, masks, tuple(picture.scene for picture in drawn))


def pictures(pool: ScenePool, rows: Int64[Tensor, "b"] | slice) -> Float[Tensor, "b 3 32 32"]:
    """Rows of a pool as pictures in [0, 1]."""
    return pool.images[rows].float() / 255


def random_scenes(count: int, rng: np.random.Generator) -> list[Scene]:
    """Scenes as pre-training sees them: no class with an emblem or layout of one of its personal subjects."""
    return [random_scene(rng) for _ in range(count)]


def independent_scenes(count: int, rng: np.random.Generator) -> list[Scene]:
    """Scenes for the oracle: every attribute drawn alone, so that none can be guessed from another.

    An emblem is on every second object, whatever its pattern. The personal subjects themselves never occur.
    """
    cast = {(s.class_word, s.colour, s.second, s.pattern, s.emblem) for s in SUBJECTS.values()}
    found: list[Scene] = []
    while len(found) < count:
        scene = _independent_scene(rng)
        if (scene.class_word, scene.colour, scene.second, scene.pattern, scene.emblem) not in cast:
            found.append(scene)
    return found


def subject_scenes() -> list[Scene]:
    """All pictures of all personal subjects: objects that no judge is trained on."""
    return [scene for subject in SUBJECTS.values() for scene in (*tuning_scenes(subject), *held_out_scenes(subject))]


def _independent_scene(rng: np.random.Generator) -> Scene:
    colour, second = (COLOURS[i] for i in rng.permutation(len(COLOURS))[:2])
    x, y, size, tilt = random_place(rng)
    return Scene(
        class_word=_pick(rng, CLASSES),
        colour=colour,
        second=second,
        pattern=_pick(rng, PATTERNS + LAYOUTS),
        context=_pick(rng, CONTEXTS),
        accessory=_pick(rng, ACCESSORIES) if rng.random() < EVEN else None,
        emblem=_pick(rng, EMBLEMS) if rng.random() < EVEN else None,
        x=x,
        y=y,
        size=size,
        tilt=tilt,
        seed=int(rng.integers(2**31)),
    )


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]
