"""Stable Diffusion 3: conditioning equals that of diffusers' pipeline, and what its files may not say."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel

from experiments.random_base import random_base
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.pretrained import as_pipeline, check_base, load_base, save_base
from quantbooth.diffusion.sampler import initial_noise
from quantbooth.runtime.errors import UserError

TEXTS = ["a red mug", "a duck on the beach"]
T = 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sd3")
    save_base(random_base("tiny-sd3"), made, torch.float32)
    return made


@pytest.fixture(scope="module")
def sd3(folder: Path) -> Base:
    return load_base(folder, "tiny-sd3")


def noise_of(base: Base) -> torch.Tensor:
    return initial_noise(TEXTS, [0, 1], base.latent_shape)


def test_a_prediction_is_what_the_transformer_of_diffusers_gives(folder: Path, sd3: Base) -> None:
    noise, t = noise_of(sd3), torch.tensor([3, 900])
    transformer = SD3Transformer2DModel.from_pretrained(str(folder), subfolder="transformer")
    pipeline = as_pipeline(sd3)
    with torch.no_grad():
        states, _, pooled, _ = pipeline.encode_prompt(TEXTS, TEXTS, TEXTS, do_classifier_free_guidance=False)
        conditioning = sd3.encode_prompts(TEXTS)
        assert torch.equal(conditioning.tokens, states)
        assert torch.equal(conditioning.extra["pooled"], pooled)
        found = transformer(noise, states, pooled, t + 1).sample
        assert torch.equal(sd3.predict(noise, t, conditioning), found)


def test_a_token_counted_256_times_is_256_tokens(tmp_path: Path) -> None:
    """Without T5, against diffusers' transformer on all 77 + 256 tokens; the first block has a second attention."""
    save_base(random_base("tiny-sd3-without-t5"), tmp_path, torch.float32)
    base, t = load_base(tmp_path, "base"), torch.tensor([3, 900])
    transformer = SD3Transformer2DModel.from_pretrained(str(tmp_path), subfolder="transformer")
    states, _, pooled, _ = as_pipeline(base).encode_prompt(TEXTS, TEXTS, TEXTS, do_classifier_free_guidance=False)
    conditioning = base.encode_prompts(TEXTS)
    assert (states.shape[1:], conditioning.tokens.shape[1:]) == ((77 + 256, 56), (77, 48))
    with torch.no_grad():
        wanted = transformer(noise_of(base), states, pooled, t + 1).sample
        once = transformer(noise_of(base), states[:, :78], pooled, t + 1).sample
    for _ in range(2):
        base.enable_gradient_checkpointing_()
        found = base.predict(noise_of(base), t, conditioning)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert (once - wanted).abs().max() > 1e-3
    ours = base.denoiser(noise_of(base), states, pooled, t + 1).sample  # as a pipeline calls it
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-6)


def test_without_t5_both_its_parts_are_null_and_the_width_fits(folder: Path, tmp_path: Path) -> None:
    save_base(random_base("tiny-sd3-without-t5"), tmp_path, torch.float32)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["text_encoder_3"] == index["tokenizer_3"] == [None, None]
    check_base(tmp_path, 64, T)
    config = json.loads((tmp_path / MAIN).read_text())
    (tmp_path / MAIN).write_text(json.dumps({**config, "joint_attention_dim": 40}))
    with pytest.raises(UserError, match="joint_attention_dim must be 48 or more, the width of both CLIPs, found 40"):
        check_base(tmp_path, 64, T)


MAIN, VAE, INDEX = "transformer/config.json", "vae/config.json", "model_index.json"
SCHEDULER, WORDS = "scheduler/scheduler_config.json", "text_encoder_3/config.json"


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        (MAIN, {"in_channels": 4}, "in_channels must be 16 as latent_channels of vae/, found 4"),
        (MAIN, {"joint_attention_dim": 64}, "joint_attention_dim must be 56 as d_model of text_encoder_3/, found 64"),
        (MAIN, {"pooled_projection_dim": 16}, "pooled_projection_dim must be 32 as the projections of both CLIPs"),
        (MAIN, {"sample_size": 18}, "sample_size must be even and at most 2 x pos_embed_max_size = 16 .* found 18"),
        (MAIN, {"sample_size": 7}, "sample_size must be even .* found 7"),
        (MAIN, {"patch_size": 4}, "with patch_size = 2, found 8 and 4"),
        (MAIN, {"guidance_embeds": True}, 'says "guidance_embeds" = true, which SD3Transformer2DModel does not have'),
        (VAE, {"out_channels": 4}, "out_channels must be 3 to be supported, found 4"),
        (VAE, {"scaling_factor": 0}, "scaling_factor must be a number above 0, found 0"),
        (WORDS, {"d_model": None}, "d_model must be a whole number above 0, found null"),
        (SCHEDULER, {"_class_name": "DDIMScheduler"}, "_class_name must be .FlowMatchEulerDiscreteScheduler. to be"),
        (SCHEDULER, {"num_train_timesteps": 500}, "num_train_timesteps must be 1000, found 500"),
        (
            INDEX,
            {"text_encoder_3": [None, None]},
            "text_encoder_3 must be one of T5EncoderModel, found .null",
        ),
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


def test_a_prompt_that_is_longer_than_an_encoder_reads_is_refused(sd3: Base) -> None:
    with pytest.raises(UserError, match="^the prompt has 2.. tokens, the text encoder reads 255, so .* would be lost"):
        sd3.family.require_whole([sd3.encoders[2].tokenizer] * 3, ["a " * 130])
    with pytest.raises(UserError, match="reads 75, so"):
        sd3.encode_prompts(["a " * 80])
