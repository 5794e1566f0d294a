"""Held-out questions of the toy world: captions with the pictures of their scenes, reproducible by seed."""

import numpy as np
import torch

from quantbooth_toyworld.questions import held_out_captions, rendered_questions
from quantbooth_toyworld.scenes import render


def test_each_caption_lies_beside_the_picture_of_its_scene() -> None:
    found, held = rendered_questions(4, 3), held_out_captions(4, 3)
    assert found.pictures is not None
    for place, (question, caption) in enumerate(zip(found.each, held, strict=True)):
        assert (question.text, question.seed, question.asked) == (caption.text, place, caption.asked)
        pixels = (found.pictures[place] * 255).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(pixels, render(caption.scene).image)


def test_the_seed_decides_them() -> None:
    again = rendered_questions.__wrapped__(4, 3)
    assert again.fingerprint == rendered_questions(4, 3).fingerprint
    assert again.fingerprint != rendered_questions(4, 4).fingerprint
    longer = rendered_questions(5, 3)
    assert longer.each[:4] == again.each
    assert longer.pictures is not None
    assert again.pictures is not None
    assert torch.equal(longer.pictures[:4], again.pictures)
