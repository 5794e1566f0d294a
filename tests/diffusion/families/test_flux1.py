"""FLUX.1 dev: conditioning and weight of guidance are those of diffusers' pipeline, and what its files may not say."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from composing import composed
from experiments.random_base import random_base
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.flux1 import Flux1
from quantbooth.diffusion.pretrained import as_pipeline, check_base, load_base, save_base
from quantbooth.diffusion.sampler import Sampler, initial_noise
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError

TEXTS = ["a red mug", "a duck on the beach"]
T = 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("flux1")
    save_base(random_base("tiny-flux1"), made, torch.float32)
    return made


@pytest.fixture(scope="module")
def flux(folder: Path) -> Base:
    return load_base(folder, "tiny-flux1")


def noise_of(base: Base) -> torch.Tensor:
    return initial_noise(TEXTS, [0, 1], base.latent_shape)


def test_prompts_are_encoded_as_by_diffusers(flux: Base) -> None:
    conditioning = flux.encode_prompts(TEXTS)
    states, pooled, _ = as_pipeline(flux).encode_prompt(TEXTS)
    assert torch.equal(conditioning.tokens, states)
    assert torch.equal(conditioning.extra["pooled"], pooled)
    assert (conditioning.tokens.shape, pooled.shape) == ((2, 512, 56), (2, 24))


@pytest.mark.parametrize("guidance", [3.5, 1.0])
def test_the_weight_of_guidance_is_the_default_of_the_pipeline(flux: Base, guidance: float) -> None:
    pipeline, noise = as_pipeline(flux), noise_of(flux)
    pipeline.set_progress_bar_config(disable=True)
    given = {"latents": pipeline._pack_latents(noise, *noise.shape), "output_type": "latent"}
    made = {"height": 64, "width": 64, "num_inference_steps": 2, "guidance_scale": guidance}
    theirs = pipeline(prompt=TEXTS, **given, **made).images
    with torch.no_grad():
        words = flux.encode_prompts(TEXTS)
        ours = Sampler("flow_euler", 2, 1.0).denoise(flux, lambda _t: words, noise)
    difference = (pipeline._unpack_latents(theirs, 64, 64, 8) - ours).abs().max()
    assert difference < 1e-5 if guidance == 3.5 else difference > 1e-4


def test_guidance_of_the_sampler_is_refused_as_it_was_distilled(folder: Path) -> None:
    given = ("base=flux1_dev", f"base.path={folder}", "base.resolution=64", "sampler=flow_euler")
    with pytest.raises(UserError, match=r"^sampler\.guidance must be 1 for this base, .* got 4; "):
        _ = Run(composed(*given)).sampler
    assert Run(composed(*given, "sampler.guidance=1")).sampler == Sampler("flow_euler", 25, 1.0)
    with pytest.raises(UserError, match=r"^negative_prompt has no effect at sampler\.guidance=1"):
        _ = Run(composed(*given, "sampler.guidance=1", "negative_prompt=blurry")).sampler


MAIN, VAE, INDEX = "transformer/config.json", "vae/config.json", "model_index.json"


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        (MAIN, {"guidance_embeds": False}, "guidance_embeds must be true to be supported, found false"),
        (MAIN, {"patch_size": 2}, "patch_size must be 1 to be supported, found 2"),
        (MAIN, {"in_channels": 16}, "in_channels must be 64 as 4 x latent_channels of vae/, found 16"),
        (MAIN, {"joint_attention_dim": 32}, "joint_attention_dim must be 56 as d_model of text_encoder_2/, found 32"),
        (MAIN, {"pooled_projection_dim": 16}, "pooled_projection_dim must be 24 as hidden_size of text_encoder/"),
        (VAE, {"sample_size": 72}, "sample_size must be a multiple of 16 .*, found 72"),
        (VAE, {"block_out_channels": [8, 8, 8]}, "sample_size must be a multiple of 16 with 4 .* downsampling by 4"),
        (VAE, {"sample_size": "64"}, "sample_size must be a whole number above 0"),
        (INDEX, {"text_encoder_2": [None, None]}, "text_encoder_2 must be one of T5EncoderModel, found .null"),
        (INDEX, {"scheduler": ["diffusers", "DDIMScheduler"]}, "scheduler must be one of FlowMatchEuler"),
    ],
    ids=str,
)
def test_what_is_not_supported_is_refused_by_file_and_key(
    folder: Path, tmp_path: Path, file: str, change: dict[str, Any], says: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors")))
    (copy / file).write_text(json.dumps({**json.loads((copy / file).read_text()), **change}))
    with pytest.raises(UserError, match=f"{Path(file).name}.*{says}"):
        check_base(copy, 64, T)


def test_the_side_of_pictures_is_that_of_the_autoencoder(folder: Path, tmp_path: Path) -> None:
    assert Flux1.from_folder(folder, {}).side == 64
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    assert Flux1.from_folder(tmp_path, {}).side == 1024
