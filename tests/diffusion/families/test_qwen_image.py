"""Qwen-Image: conditioning, latents and guidance equal those of diffusers' pipeline, and what its files may not say."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.random_base import random_base
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.families.qwen_image import QwenImage
from quantbooth.diffusion.pretrained import as_pipeline, check_base, load_base, save_base
from quantbooth.diffusion.sampler import initial_noise
from quantbooth.runtime.errors import UserError

TEXTS = ["a red mug", "a duck on the beach in {braces}"]
MAIN, VAE, INDEX, WORDS = "transformer/config.json", "vae/config.json", "model_index.json", "text_encoder/config.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("qwen-image")
    save_base(random_base("tiny-qwen-image"), made, torch.float32)
    return made


@pytest.fixture(scope="module")
def qwen(folder: Path) -> Base:
    return load_base(folder, "tiny-qwen-image")


@pytest.mark.parametrize("side", ["right", "left"])
def test_prompts_are_encoded_as_by_diffusers(qwen: Base, side: str) -> None:
    qwen.tokenizer.padding_side = side
    states, mask = as_pipeline(qwen).encode_prompt(TEXTS)
    found = qwen.encode_prompts(TEXTS)
    qwen.tokenizer.padding_side = "right"
    length = states.shape[1]
    assert found.tokens.shape == (2, 512, 16)
    torch.testing.assert_close(found.tokens[:, :length], states, rtol=0, atol=1e-6)
    assert torch.equal(found.extra["mask"][:, :length], mask.bool())
    assert not found.extra["mask"][:, length:].any()
    assert not found.tokens[:, length:].any()
    assert mask.sum(1).diff() == len(TEXTS[1]) - len(TEXTS[0])


def test_padding_is_not_read(qwen: Base) -> None:
    noise, words = initial_noise(TEXTS, [0, 1], qwen.latent_shape), qwen.encode_prompts(TEXTS)
    mask = words.extra["mask"]
    with torch.no_grad():
        found = qwen.predict(noise, torch.tensor(500), words)
        padded, changed = (
            Conditioning(words.tokens + where[..., None].float(), {"mask": mask}) for where in (~mask, mask)
        )
        torch.testing.assert_close(qwen.predict(noise, torch.tensor(500), padded), found, rtol=0, atol=1e-6)
        assert not torch.allclose(qwen.predict(noise, torch.tensor(500), changed), found, atol=1e-4)


def test_guidance_keeps_the_length_of_each_patch() -> None:
    draw = torch.Generator().manual_seed(0)
    one, other = (torch.randn(2, 16, 8, 8, generator=draw, dtype=torch.float64) for _ in range(2))
    found = QwenImage().guide(one, other, 4.0)

    def patch(x: torch.Tensor) -> torch.Tensor:
        return x[1, :, 2:4, 6:8].flatten()

    torch.testing.assert_close(patch(found).norm(), patch(other).norm())
    plain = patch(one) + 4 * (patch(other) - patch(one))
    torch.testing.assert_close(patch(found) / patch(found).norm(), plain / plain.norm())


def test_a_prompt_that_is_longer_than_the_encoder_reads_is_refused(qwen: Base) -> None:
    with pytest.raises(UserError, match=r"^the prompt has 600 tokens, .* reads ..., so 'a+' would be lost") as found:
        qwen.encode_prompts(["a" * 600])
    room = int(str(found.value).split("reads ")[1].split(",")[0])
    assert qwen.encode_prompts(["a" * room]).extra["mask"].all()
    with pytest.raises(UserError, match=f"has {room + 1} tokens"):
        qwen.family.require_whole([qwen.tokenizer], ["a" * (room + 1)])


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        (MAIN, {"guidance_embeds": True}, "guidance_embeds must be false to be supported, found true"),
        (MAIN, {"zero_cond_t": True}, "zero_cond_t must be false to be supported, found true"),
        (MAIN, {"patch_size": 1}, "patch_size must be 2 to be supported, found 1"),
        (MAIN, {"in_channels": 16}, "in_channels must be 64 as 4 x z_dim of vae/, found 16"),
        (MAIN, {"joint_attention_dim": 32}, "joint_attention_dim must be 16 as hidden_size of text_encoder/, found 32"),
        (VAE, {"sample_size": 72}, "sample_size must be a multiple of 16 .*, found 72"),
        (VAE, {"dim_mult": [1, 2]}, "sample_size must be a multiple of 16 with 4 .* downsampling by 2"),
        (VAE, {"z_dim": 0}, "z_dim must be a whole number above 0, found 0"),
        (VAE, {"input_channels": 4}, "input_channels must be 3 to be supported, found 4"),
        (VAE, {"latent_channels": 4}, '"latent_channels" = 4, which AutoencoderKLQwenImage does not have'),
        (INDEX, {"vae": ["diffusers", "AutoencoderKL"]}, "vae must be one of AutoencoderKLQwenImage"),
        (INDEX, {"processor": ["transformers", "Qwen2VLProcessor"]}, "which QwenImagePipeline does not have"),
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


def test_the_side_of_pictures_is_1024_where_its_autoencoder_says_none(folder: Path, tmp_path: Path) -> None:
    check_base(folder, 64, 1000)
    assert QwenImage.from_folder(folder, {}).side == 64
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    assert QwenImage.from_folder(tmp_path, {}).side == 1024
