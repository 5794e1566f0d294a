"""Training and test data of the judges: rendered scenes with the oracle's labels and the scorer's captions."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from quantbooth_toyworld.captions import Caption, describe, words
from quantbooth_toyworld.scenes import random_place, random_scene, render
from quantbooth_toyworld.subjects import held_out_scenes, tuning_scenes
from quantbooth_toyworld.world import (
    ACCESSORIES,
    CLASSES,
    COLOURS,
    CONTEXTS,
    EMBLEMS,
    LAYOUTS,
    PATTERNS,
    SUBJECTS,
    Scene,
)

__all__ = [
    "NONE",
    "ORACLE_NAMES",
    "ScenePool",
    "answers",
    "full_caption",
    "independent_scenes",
    "pictures",
    "random_scenes",
    "render_pool",
    "scorer_caption",
    "scorer_words",
    "seen",
    "subject_scenes",
]

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
    """Return the visible attributes of a scene, by the oracle's names; a plain body shows no second colour."""
    found = {attribute: getattr(scene, attribute) or NONE for attribute in ORACLE_NAMES}
    return found | {"second": NONE} if scene.pattern == "plain" else found


def answers(scenes: Iterable[Scene]) -> dict[str, Int64[Tensor, "b"]]:
    """Return the oracle's labels, as indices into its names."""
    rows = [seen(scene) for scene in scenes]
    return {name: torch.tensor([found.index(row[name]) for row in rows]) for name, found in ORACLE_NAMES.items()}


def full_caption(scene: Scene, rng: np.random.Generator) -> Caption:
    """Return a caption that names all attributes that captions can name."""
    wanted = {"colour", "context"} | ({"pattern", "second"} if scene.pattern in PATTERNS[1:] else set())
    wanted |= {"accessory"} if scene.accessory is not None else set()
    while True:
        found = describe(scene, rng)
        if found.named >= wanted:
            return found


def scorer_caption(scene: Scene, rng: np.random.Generator) -> Caption:
    """Return a training caption of the scorer: half are full, and half of the emblems and layouts are named.

    The base's captions never name these two, but the training text of a published CLIP includes such words. Even so, a
    removed emblem does not lower CLIP-I of the shipped scorer.
    """
    found = full_caption(scene, rng) if rng.random() < HALF else describe(scene, rng)
    text, named = found.text, set(found.named)
    if scene.pattern in LAYOUTS and rng.random() < HALF:
        text, named = f"{text} parted {scene.pattern} {scene.second}", named | {"pattern", "second"}
    if scene.emblem is not None and rng.random() < HALF:
        text, named = f"{text} marked {scene.emblem}", named | {"emblem"}
    return Caption(text, frozenset(named))


def scorer_words() -> tuple[str, ...]:
    """Return the scorer's vocabulary: words of captions and prompts, emblems and layouts."""
    return tuple(sorted({*words(), "parted", "marked", *LAYOUTS, *EMBLEMS}))


EVEN = 0.5  # share of scenes for the oracle that have an accessory, and that have an emblem


@dataclass(frozen=True)
class ScenePool:
    """Rendered scenes, stored as bytes: rendering a scene costs about as much as training on it once."""

    images: UInt8[Tensor, "n 3 32 32"]
    masks: Bool[Tensor, "n 32 32"]
    scenes: tuple[Scene, ...]


def render_pool(scenes: Iterable[Scene]) -> ScenePool:
    """Render every scene once, in order."""
    drawn = [render(scene) for scene in scenes]
    images = torch.from_numpy(np.stack([picture.image for picture in drawn])).permute(0, 3, 1, 2).contiguous()
    masks = torch.from_numpy(np.stack([picture.mask for picture in drawn]))
    return ScenePool(images, masks, tuple(picture.scene for picture in drawn))


def pictures(pool: ScenePool, rows: Int64[Tensor, "b"] | slice) -> Float[Tensor, "b 3 32 32"]:
    """Return rows of a pool as pictures in [0, 1]."""
    return pool.images[rows].float() / 255


def random_scenes(count: int, rng: np.random.Generator) -> list[Scene]:
    """Draw scenes of the pre-training distribution: no class with an emblem or layout of its personal subjects."""
    return [random_scene(rng) for _ in range(count)]


def independent_scenes(count: int, rng: np.random.Generator) -> list[Scene]:
    """Draw scenes for the oracle with independent attributes, so that none can be guessed from another.

    Half of the objects have an emblem, with any pattern. The personal subjects themselves never occur.
    """
    cast = {(s.class_word, s.colour, s.second, s.pattern, s.emblem) for s in SUBJECTS.values()}
    found: list[Scene] = []
    while len(found) < count:
        scene = _independent_scene(rng)
        if (scene.class_word, scene.colour, scene.second, scene.pattern, scene.emblem) not in cast:
            found.append(scene)
    return found


def subject_scenes() -> list[Scene]:
    """Return the scenes of all personal subjects: objects that no judge is trained on."""
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
