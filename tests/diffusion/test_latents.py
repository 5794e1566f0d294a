"""Latents are those of diffusers' own pipelines: the mode of the posterior of pictures in [-1, 1], scaled."""

import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents

from experiments.random_base import random_base
from quantbooth.diffusion.base import Base


@pytest.fixture(scope="module")
def tiny() -> Base:
    return random_base("tiny", seed=0)


def test_pictures_are_encoded_as_diffusers_does(tiny: Base, generator: torch.Generator) -> None:
    side, vae = tiny.side, tiny.autoencoder
    pictures = torch.rand(2, 3, side, side, generator=generator)
    with torch.no_grad():
        posterior = vae.encode(VaeImageProcessor().preprocess(pictures))
    expected = retrieve_latents(posterior, sample_mode="argmax") * vae.config.scaling_factor
    assert vae.config.scaling_factor not in (0, 1)
    assert float(posterior.latent_dist.std.min()) > 1e-3  # a sample is something else
    torch.testing.assert_close(tiny.encode_images(pictures), expected)
    assert torch.equal(tiny.encode_images(pictures), tiny.encode_images(pictures))


def test_latents_are_decoded_as_diffusers_does(tiny: Base, generator: torch.Generator) -> None:
    vae = tiny.autoencoder
    latents = torch.randn(2, *tiny.latent_shape, generator=generator)
    with torch.no_grad():
        made = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
    expected = VaeImageProcessor().postprocess(made, output_type="pt")
    torch.testing.assert_close(tiny.decode_latents(latents), expected)
