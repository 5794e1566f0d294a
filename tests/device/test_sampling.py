"""Sampling on a device: a step of any scheduler neither waits nor sends, and pictures are those of the CPU."""

from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch

from pretend import DEVICE, Looks
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.families.ddpm import DDPM_SCHEDULERS
from quantbooth.diffusion.sampler import Sampler, initial_noise

pytestmark = pytest.mark.device


def _same(text: Conditioning, _: Any) -> Conditioning:
    return text


@pytest.mark.parametrize("scheduler", DDPM_SCHEDULERS)
def test_steps_do_not_wait(small_base: Base, looks: Looks, scheduler: str) -> None:
    noise, base = initial_noise(["a red mug"], [0], small_base.latent_shape), deepcopy(small_base)
    base.networks.to(DEVICE)
    seen = []
    for steps in (4, 6):
        sampler, before = Sampler(scheduler, steps, 2.0), Looks(looks)
        with torch.no_grad():
            text = base.encode_prompts(["a red mug"])
        found = sampler.denoise(base, partial(_same, text), noise)
        seen.append(looks.since(before))
    assert seen[0] == seen[1]
    pictures = [
        one.sample(which, ["a red mug"], noise).cpu() for one, which in ((sampler, base), (sampler, small_base))
    ]
    assert found.device == torch.device(DEVICE)
    torch.testing.assert_close(*pictures, rtol=0, atol=1e-4)
