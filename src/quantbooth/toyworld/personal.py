"""The toy world's personal subjects as subjects: pictures rendered, prompts with what they ask for and leave alone."""

import hashlib

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from quantbooth.data.subjects import Prompt, Subject
from quantbooth.errors import UserError
from quantbooth.toyworld.render import render
from quantbooth.toyworld.subjects import SUBJECTS, held_out_scenes, prompts, tuning_scenes, untouched
from quantbooth.toyworld.world import Scene

__all__ = ["toy_subject"]


def toy_subject(name: str, identifier: str) -> Subject:
    """One of the twelve personal subjects: five pictures to tune on, twenty others to compare with.

    The true masks are left out: the toy locator looks at references and generated pictures alike, and figures with and
    without masks are not the same figures.

    Raises:
        UserError: for a name the world does not know.
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
