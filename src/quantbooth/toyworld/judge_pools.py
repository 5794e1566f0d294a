"""Rendered scenes in bulk, for the judges to learn from and to be measured on."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from quantbooth.toyworld.cast import held_out_emblems, held_out_layouts
from quantbooth.toyworld.render import render
from quantbooth.toyworld.scenes import random_place, random_scene
from quantbooth.toyworld.subjects import SUBJECTS, held_out_scenes, tuning_scenes
from quantbooth.toyworld.world import ACCESSORIES, CLASSES, COLOURS, CONTEXTS, EMBLEMS, LAYOUTS, PATTERNS, Scene

__all__ = ["ScenePool", "independent_scenes", "pictures", "random_scenes", "render_pool", "subject_scenes"]

FAMILY = 4
ALIKE = 0.7
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


def related_scenes(count: int, rng: np.random.Generator) -> list[Scene]:
    """Scenes for the scorer, in families of FAMILY in a row: what is alike in a family must be told apart by the rest.

    All of a family show the same class, most also the same colour, context and accessory; pattern, second colour and
    emblem are drawn anew for each. No class has an emblem or layout of one of its personal subjects.

    Raises:
        ValueError: count is not a multiple of FAMILY.
    """
    if count % FAMILY:
        raise ValueError(f"count must be a multiple of {FAMILY}, got {count} in related_scenes")
    return [
        _relative(random_scene(rng), head, rng) for head in random_scenes(count // FAMILY, rng) for _ in range(FAMILY)
    ]


def _relative(scene: Scene, head: Scene, rng: np.random.Generator) -> Scene:
    """A scene with the class of a family's head, and usually its colour, context and accessory."""
    colour, context, accessory = (rng.random(3) < ALIKE).tolist()
    pattern, emblem = _marks(head.class_word, rng)
    body = head.colour if colour else scene.colour
    return replace(
        scene,
        class_word=head.class_word,
        colour=body,
        second=_pick(rng, tuple(word for word in COLOURS if word != body)),
        pattern=pattern,
        emblem=emblem,
        context=head.context if context else scene.context,
        accessory=head.accessory if accessory else scene.accessory,
    )


def _marks(class_word: str, rng: np.random.Generator) -> tuple[str, str | None]:
    """A pattern, and an emblem on two of three bodies without captioned pattern; none is a personal subject's."""
    layouts = tuple(layout for layout in LAYOUTS if (class_word, layout) not in held_out_layouts())
    pattern = _pick(rng, _pick_among(rng, (PATTERNS[:1], PATTERNS[1:], layouts)))
    emblems = tuple(emblem for emblem in EMBLEMS if (class_word, emblem) not in held_out_emblems())
    return pattern, _pick(rng, emblems) if pattern not in PATTERNS[1:] and rng.random() < 2 / 3 else None


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


def _pick_among(rng: np.random.Generator, groups: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    return groups[int(rng.integers(len(groups)))]


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]
