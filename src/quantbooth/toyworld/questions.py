"""Held-out questions of the toy world: captions of scenes that no training drew, beside the rendered scenes."""

from functools import lru_cache

import torch
from rich.progress import track

from quantbooth.data.questions import Question, Questions
from quantbooth.toyworld.fidelity import held_out_captions
from quantbooth.toyworld.render import render

__all__ = ["rendered_questions"]

MANY = 500


@lru_cache(maxsize=2)
def rendered_questions(count: int, seed: int) -> Questions:
    """Question i is the caption of held-out scene (seed, i), its picture the scene rendered, its noise seed i.

    Kept, since every job of a sweep asks for the same.
    """
    held = held_out_captions(count, seed)
    shown = track(held, "rendering held-out scenes", transient=True) if count >= MANY else held
    pixels = torch.stack([torch.from_numpy(render(caption.scene).image.copy()) for caption in shown])
    each = tuple(Question(caption.text, place, dict(caption.asked)) for place, caption in enumerate(held))
    return Questions(f"{count} captions of rendered scenes", each, pixels.permute(0, 3, 1, 2).float() / 255)
