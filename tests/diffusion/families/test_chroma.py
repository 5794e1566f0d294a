"""Chroma: conditioning equals that of diffusers' pipeline, its mask is a number, and what its files may not say."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ChromaTransformer2DModel

from experiments.random_base import random_base
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.pretrained import as_pipeline, check_base, load_base, save_base
from quantbooth.diffusion.sampler import initial_noise
from quantbooth.runtime.errors import UserError

TEXTS = ["a red mug", "a duck on the beach"]
MAIN, VAE, INDEX = "transformer/config.json", "vae/config.json", "model_index.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("chroma")
    save_base(random_base("tiny-chroma"), made, torch.float32)
    return made


@pytest.fixture(scope="module")
def chroma(folder: Path) -> Base:
    return load_base(folder, "tiny-chroma")


def test_prompts_are_encoded_as_by_diffusers(chroma: Base) -> None:
    prompts = [*TEXTS, "a" * 510]
    conditioning = chroma.encode_prompts(prompts)
    states, _, mask, *_ = as_pipeline(chroma).encode_prompt(prompts, do_classifier_free_guidance=False)
    assert torch.equal(conditioning.tokens, states)
    assert torch.equal(conditioning.extra["mask"], mask.bool())
    assert mask.sum(1).tolist() == [min(len(text) + 3, 512) for text in prompts]  # letters, a space, the end, one more


def test_the_mask_is_added_to_scores(folder: Path, chroma: Base) -> None:
    """One for tokens and patches, zero for padding; a mask of minus infinity would be another network."""
    noise, t, words = initial_noise(TEXTS, [0, 1], chroma.latent_shape), torch.tensor([3, 900]), None
    words = chroma.encode_prompts(TEXTS)
    transformer = ChromaTransformer2DModel.from_pretrained(str(folder), subfolder="transformer")
    pipeline = as_pipeline(chroma)
    patches = pipeline._pack_latents(noise, *noise.shape)
    mask = torch.cat([words.extra["mask"], torch.ones(2, 16, dtype=torch.bool)], 1)
    places = pipeline._prepare_latent_image_ids(2, 4, 4, "cpu", torch.float32)
    given = {"encoder_hidden_states": words.tokens, "img_ids": places, "txt_ids": torch.zeros(512, 3)}
    with torch.no_grad():
        found = pipeline._pack_latents(chroma.predict(noise, t, words), *noise.shape)
        added, cut = (
            transformer(patches, timestep=(t + 1) / 1000, attention_mask=one, **given).sample
            for one in (mask.float(), mask)
        )
    torch.testing.assert_close(found, added, rtol=0, atol=1e-6)
    assert (found - cut).abs().max() > 1e-3


def test_a_prompt_that_is_longer_than_t5_reads_is_refused(chroma: Base) -> None:
    with pytest.raises(UserError, match="^the prompt has 600 tokens, the text encoder reads 511, so .* would be lost"):
        chroma.encode_prompts(["a " * 300])


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        (MAIN, {"patch_size": 2}, "patch_size must be 1 to be supported, found 2"),
        (MAIN, {"guidance_embeds": True}, '"guidance_embeds" = true, which ChromaTransformer2DModel does not have'),
        (MAIN, {"in_channels": 16}, "in_channels must be 64 as 4 x latent_channels of vae/, found 16"),
        (MAIN, {"joint_attention_dim": 32}, "joint_attention_dim must be 56 as d_model of text_encoder/, found 32"),
        (VAE, {"sample_size": 72}, "sample_size must be a multiple of 16 .*, found 72"),
        (INDEX, {"text_encoder": ["transformers", "CLIPTextModel"]}, "text_encoder must be one of T5EncoderModel"),
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
        check_base(copy, 64, 1000)
