"""FLUX.2 klein: conditioning and latents equal those of diffusers' pipeline, and what its files may not say."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.random_base import random_base
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.flux2 import Flux2Klein
from quantbooth.diffusion.pretrained import as_pipeline, check_base, load_base, save_base
from quantbooth.runtime.errors import UserError

TEXTS = ["a red mug", "a duck on the beach"]
MAIN, VAE, INDEX = "transformer/config.json", "vae/config.json", "model_index.json"
WORDS = "text_encoder/config.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("klein")
    save_base(random_base("tiny-klein"), made, torch.float32)
    return made


@pytest.fixture(scope="module")
def klein(folder: Path) -> Base:
    return load_base(folder, "tiny-klein")


def test_prompts_and_pictures_are_encoded_as_by_diffusers(klein: Base) -> None:
    pipeline, draw = as_pipeline(klein), torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 64, 64, generator=draw)
    with torch.no_grad():
        states, _ = pipeline.encode_prompt(TEXTS)
        assert torch.equal(klein.encode_prompts(TEXTS).tokens, states)
        latents = torch.cat([pipeline._encode_vae_image(image[None] * 2 - 1, draw) for image in images])
        torch.testing.assert_close(klein.encode_images(images), latents, rtol=0, atol=1e-6)


def test_a_prompt_that_is_longer_than_the_encoder_reads_is_refused(klein: Base) -> None:
    whole = "a" * 512
    with pytest.raises(UserError, match=r"^the prompt has 512 tokens, .* reads 4.., so 'a+' would be lost"):
        klein.encode_prompts([whole])
    room = int(str(_error(klein, whole)).split("reads ")[1].split(",")[0])
    assert klein.encode_prompts([whole[:room]]).tokens.shape == (1, 512, 48)
    with pytest.raises(UserError, match=f"has {room + 1} tokens"):
        klein.encode_prompts([whole[: room + 1]])


def _error(base: Base, prompt: str) -> UserError:
    with pytest.raises(UserError) as found:
        base.encode_prompts([prompt])
    return found.value


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        (MAIN, {"guidance_embeds": True}, "guidance_embeds must be false to be supported, found true"),
        (MAIN, {"patch_size": 2}, "patch_size must be 1 to be supported, found 2"),
        (MAIN, {"in_channels": 64}, "in_channels must be 16 as 4 x latent_channels of vae/, found 64"),
        (MAIN, {"joint_attention_dim": 16}, "joint_attention_dim must be 48 as 3 x hidden_size of text_encoder/"),
        (VAE, {"sample_size": 72}, "sample_size must be a multiple of 16, found 72"),
        (VAE, {"sample_size": "64"}, "sample_size must be a whole number above 0"),
        (VAE, {"patch_size": [1, 1]}, r"patch_size must be \[2, 2\]"),
        (WORDS, {"num_hidden_layers": 12}, "num_hidden_layers must be 27 or more, found 12"),
        (INDEX, {"is_distilled": True}, "is_distilled must be false or null to be supported, found true"),
        (INDEX, {"vae": ["diffusers", "AutoencoderKL"]}, "vae must be one of AutoencoderKLFlux2"),
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


def test_the_side_of_pictures_is_that_of_the_autoencoder(folder: Path, tmp_path: Path) -> None:
    assert Flux2Klein.from_folder(folder, {}).side == 64
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    assert Flux2Klein.from_folder(tmp_path, {}).side == 1024
    with pytest.raises(UserError, match=r"^base\.resolution must be 64, the side of the pictures of"):
        check_base(folder, 1024, 1000)
