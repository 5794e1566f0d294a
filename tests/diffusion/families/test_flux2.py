"""FLUX.2 base: conditioning and latents equal those of diffusers' pipeline."""

from pathlib import Path

import pytest
import torch

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.flux2 import Flux2Klein
from quantbooth.diffusion.pretrained import as_pipeline, check_base
from quantbooth.runtime.errors import UserError

NAME = "tiny-klein"
TEXTS = ["a red mug", "a duck on the beach"]


def test_prompts_and_pictures_are_encoded_as_by_diffusers(tiny: Base) -> None:
    pipeline, draw = as_pipeline(tiny), torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 64, 64, generator=draw)
    with torch.no_grad():
        states, _ = pipeline.encode_prompt(TEXTS)
        assert torch.equal(tiny.encode_prompts(TEXTS).tokens, states)
        latents = torch.cat([pipeline._encode_vae_image(image[None] * 2 - 1, draw) for image in images])
        torch.testing.assert_close(tiny.encode_images(images), latents, rtol=0, atol=1e-6)


def test_a_prompt_that_is_longer_than_the_encoder_reads_is_refused(tiny: Base) -> None:
    whole = "a" * 512
    with pytest.raises(UserError, match=r"^the prompt has 512 tokens, .* reads 4.., so 'a+' would be lost"):
        tiny.encode_prompts([whole])
    room = int(str(_error(tiny, whole)).split("reads ")[1].split(",")[0])
    assert tiny.encode_prompts([whole[:room]]).tokens.shape == (1, 512, 48)
    with pytest.raises(UserError, match=f"has {room + 1} tokens"):
        tiny.encode_prompts([whole[: room + 1]])


def _error(base: Base, prompt: str) -> UserError:
    with pytest.raises(UserError) as found:
        base.encode_prompts([prompt])
    return found.value


def test_the_side_of_pictures_is_that_of_the_autoencoder(folder: Path, tmp_path: Path) -> None:
    assert Flux2Klein.from_folder(folder, {}).side == 64
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    assert Flux2Klein.from_folder(tmp_path, {}).side == 1024
    with pytest.raises(UserError, match=r"^base\.resolution must be 64, the side of the pictures of"):
        check_base(folder, 1024, 1000)
