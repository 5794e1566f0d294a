"""The toy world's personal subjects: five pictures to tune on, twenty held out, and prompts with known attributes."""

import hashlib
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from quantbooth.data.subjects import Prompt, Subject
from quantbooth.runtime.errors import UserError
from quantbooth_toyworld.captions import ToyPrompt, prompts, untouched
from quantbooth_toyworld.scenes import random_place, render
from quantbooth_toyworld.world import ACCESSORIES, CONTEXTS, SUBJECTS, Scene, ToySubject

__all__ = [
    "SUBJECTS",
    "ToyPrompt",
    "ToySubject",
    "held_out_scenes",
    "prompts",
    "toy_subject",
    "tuning_scenes",
    "untouched",
]

TUNING_PICTURES = 5


def tuning_scenes(subject: ToySubject) -> list[Scene]:
    """Return five scenes on five contexts, without accessory, each placed slightly differently."""
    rng = _stream(subject, 0)
    start = list(SUBJECTS).index(subject.name)
    contexts = (CONTEXTS[(start + 2 * k) % len(CONTEXTS)] for k in range(TUNING_PICTURES))
    return [_scene(subject, context, None, rng) for context in contexts]


def held_out_scenes(subject: ToySubject) -> list[Scene]:
    """Return twenty scenes that are not used in tuning: each context without and with an accessory."""
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


@cache
def toy_subject(name: str, identifier: str) -> Subject:
    """Return one of the twelve personal subjects: five pictures to tune on, twenty references.

    It has no reference masks: the toy locator runs on references and generated pictures alike, and scores with and
    without masks are not comparable.

    Raises:
        UserError: for an unknown name.
    """
    if name not in SUBJECTS:
        raise UserError(f"the toy world has no subject {name!r}; it has {', '.join(SUBJECTS)}")
    toy = SUBJECTS[name]
    photos, references = _pictures(tuning_scenes(toy)), _pictures(held_out_scenes(toy))
    asked = tuple(Prompt(prompt.template, prompt.kind, prompt.asked, untouched(toy, prompt)) for prompt in prompts(toy))
    digest = hashlib.sha256(repr((name, identifier, asked)).encode())
    digest.update(photos.numpy().tobytes() + references.numpy().tobytes())
    return Subject(name, toy.class_word, identifier, photos, references, asked, digest.hexdigest())


def _pictures(scenes: list[Scene]) -> Float[Tensor, "n 3 h w"]:
    images = np.stack([render(scene).image for scene in scenes]).astype(np.float32) / 255
    return torch.from_numpy(images.transpose(0, 3, 1, 2)).contiguous()
