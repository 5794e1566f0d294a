"""FLUX.1 dev: conditioning and weight of guidance are those of diffusers' pipeline."""

from pathlib import Path

import pytest
import torch

from composing import composed
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.flux1 import Flux1
from quantbooth.diffusion.pretrained import as_pipeline
from quantbooth.diffusion.sampler import Sampler, initial_noise
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError

NAME = "tiny-flux1"
TEXTS = ["a red mug", "a duck on the beach"]


def noise_of(base: Base) -> torch.Tensor:
    return initial_noise(TEXTS, [0, 1], base.latent_shape)


def test_prompts_are_encoded_as_by_diffusers(tiny: Base) -> None:
    conditioning = tiny.encode_prompts(TEXTS)
    states, pooled, _ = as_pipeline(tiny).encode_prompt(TEXTS)
    assert torch.equal(conditioning.tokens, states)
    assert torch.equal(conditioning.extra["pooled"], pooled)
    assert (conditioning.tokens.shape, pooled.shape) == ((2, 512, 56), (2, 24))


@pytest.mark.parametrize("guidance", [3.5, 1.0])
def test_the_weight_of_guidance_is_the_default_of_the_pipeline(tiny: Base, guidance: float) -> None:
    pipeline, noise = as_pipeline(tiny), noise_of(tiny)
    pipeline.set_progress_bar_config(disable=True)
    given = {"latents": pipeline._pack_latents(noise, *noise.shape), "output_type": "latent"}
    made = {"height": 64, "width": 64, "num_inference_steps": 2, "guidance_scale": guidance}
    theirs = pipeline(prompt=TEXTS, **given, **made).images
    with torch.no_grad():
        words = tiny.encode_prompts(TEXTS)
        ours = Sampler("flow_euler", 2, 1.0).denoise(tiny, lambda _t: words, noise)
    difference = (pipeline._unpack_latents(theirs, 64, 64, 8) - ours).abs().max()
    assert difference < 1e-5 if guidance == 3.5 else difference > 1e-4


def test_guidance_of_the_sampler_is_refused_as_it_was_distilled(folder: Path) -> None:
    given = ("base=flux1_dev", f"base.path={folder}", "base.resolution=64", "sampler=flow_euler")
    with pytest.raises(UserError, match=r"^sampler\.guidance must be 1 for this base, .* got 4; "):
        _ = Run(composed(*given)).sampler
    assert Run(composed(*given, "sampler.guidance=1")).sampler == Sampler("flow_euler", 25, 1.0)
    with pytest.raises(UserError, match=r"^negative_prompt has no effect at .*; leave out negative_prompt$"):
        _ = Run(composed(*given, "sampler.guidance=1", "negative_prompt=blurry")).sampler


def test_the_side_of_pictures_is_that_of_the_autoencoder(folder: Path, tmp_path: Path) -> None:
    assert Flux1.from_folder(folder, {}).side == 64
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    assert Flux1.from_folder(tmp_path, {}).side == 1024
