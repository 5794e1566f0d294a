"""What tuning sees: each picture beside its own prompt, mirrored ones after the others, class pictures as class."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from quantbooth.commands.tune import generate_prior
from quantbooth.run.examples import encode
from quantbooth.run.models import untuned_base
from quantbooth.run.run import Run
from quantbooth.sampling.image_set import read_images

QUICK = ("base=folder", "base.resolution=32", "method=float", "sampler.steps=1", "prior.num_class_images=2")


def one_by_one(encoded: Callable[[Tensor], Tensor], pictures: Tensor) -> Tensor:
    return torch.cat([encoded(picture[None]) for picture in pictures])


@pytest.mark.parametrize("flip", [False, True])
def test_photos_and_class_pictures_each_mirrored_or_not_have_their_own_prompts(
    compose: Callable[..., DictConfig], tmp_path: Path, flip: bool
) -> None:
    words = ("prior.class_batch_size=1", "prior.loss_weight=1.0", f"tuner.random_flip={str(flip).lower()}")
    run = Run(compose(tmp_path / "out", *QUICK, *words))
    one, base = run.only, untuned_base(run)
    one.prior.get_or_make(partial(generate_prior, one))
    found: Any = encode(one, base)
    drawn = read_images(sorted(one.prior.require().glob("*.png")))
    for latents, pictures in ((found.subject, one.subject.photos), (found.prior, drawn)):
        plain = one_by_one(base.encode_images, pictures)
        mirrored = one_by_one(base.encode_images, pictures.flip(3))
        assert torch.equal(latents, torch.cat([plain, mirrored]) if flip else plain)
        assert not torch.equal(plain, mirrored)
    prompts = base.encode_prompts([f"a photo of a {run.only.subject.identifier} mug", "a photo of a mug"]).tokens
    assert torch.equal(found.subject_text.tokens, prompts[:1])
    assert torch.equal(found.prior_text.tokens, prompts[1:])
    assert not torch.equal(prompts[0], prompts[1])
