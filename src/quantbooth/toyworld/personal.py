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

    Raises:
        UserError: for a name the world does not know.
    """
    if name not in SUBJECTS:
        raise UserError(f"the toy world has no subject {name!r}; it has {', '.join(SUBJECTS)}")
    toy = SUBJECTS[name]
    photos, _ = _pictures(tuning_scenes(toy))
    references, masks = _pictures(held_out_scenes(toy))
    asked = tuple(Prompt(prompt.template, prompt.kind, prompt.asked, untouched(toy, prompt)) for prompt in prompts(toy))
    digest = hashlib.sha256(repr((name, identifier, asked)).encode())
    digest.update(photos.numpy().tobytes() + references.numpy().tobytes())
    return Subject(name, toy.class_word, identifier, photos, references, asked, digest.hexdigest(), masks)


def _pictures(scenes: list[Scene]) -> tuple[Float[Tensor, "n 3 h w"], Tensor]:
    rendered = [render(scene) for scene in scenes]
    images = np.stack([picture.image for picture in rendered]).astype(np.float32) / 255
    masks = np.stack([picture.mask for picture in rendered])
    return torch.from_numpy(images.transpose(0, 3, 1, 2)).contiguous(), torch.from_numpy(masks)
