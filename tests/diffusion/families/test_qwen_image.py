"""Qwen-Image: conditioning, latents and guidance equal those of diffusers' pipeline."""

from pathlib import Path

import pytest
import torch

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.families.qwen_image import QwenImage
from quantbooth.diffusion.pretrained import as_pipeline, check_base
from quantbooth.diffusion.sampler import initial_noise
from quantbooth.runtime.errors import UserError

NAME = "tiny-qwen-image"
TEXTS = ["a red mug", "a duck on the beach in {braces}"]


@pytest.mark.parametrize("side", ["right", "left"])
def test_prompts_are_encoded_as_by_diffusers(tiny: Base, side: str) -> None:
    tiny.tokenizer.padding_side = side
    states, mask = as_pipeline(tiny).encode_prompt(TEXTS)
    found = tiny.encode_prompts(TEXTS)
    tiny.tokenizer.padding_side = "right"
    length = states.shape[1]
    assert found.tokens.shape == (2, 512, 16)
    torch.testing.assert_close(found.tokens[:, :length], states, rtol=0, atol=1e-6)
    assert torch.equal(found.extra["mask"][:, :length], mask.bool())
    assert not found.extra["mask"][:, length:].any()
    assert not found.tokens[:, length:].any()
    assert mask.sum(1).diff() == len(TEXTS[1]) - len(TEXTS[0])


def test_padding_is_not_read(tiny: Base) -> None:
    noise, words = initial_noise(TEXTS, [0, 1], tiny.latent_shape), tiny.encode_prompts(TEXTS)
    mask = words.extra["mask"]
    with torch.no_grad():
        found = tiny.predict(noise, torch.tensor(500), words)
        padded, changed = (
            Conditioning(words.tokens + where[..., None].float(), {"mask": mask}) for where in (~mask, mask)
        )
        torch.testing.assert_close(tiny.predict(noise, torch.tensor(500), padded), found, rtol=0, atol=1e-6)
        assert not torch.allclose(tiny.predict(noise, torch.tensor(500), changed), found, atol=1e-4)


def test_guidance_keeps_the_length_of_each_patch() -> None:
    draw = torch.Generator().manual_seed(0)
    one, other = (torch.randn(2, 16, 8, 8, generator=draw, dtype=torch.float64) for _ in range(2))
    found = QwenImage().guide(one, other, 4.0)

    def patch(x: torch.Tensor) -> torch.Tensor:
        return x[1, :, 2:4, 6:8].flatten()

    torch.testing.assert_close(patch(found).norm(), patch(other).norm())
    plain = patch(one) + 4 * (patch(other) - patch(one))
    torch.testing.assert_close(patch(found) / patch(found).norm(), plain / plain.norm())


def test_a_prompt_that_is_longer_than_the_encoder_reads_is_refused(tiny: Base) -> None:
    with pytest.raises(UserError, match=r"^the prompt has 600 tokens, .* reads ..., so 'a+' would be lost") as found:
        tiny.encode_prompts(["a" * 600])
    room = int(str(found.value).split("reads ")[1].split(",")[0])
    assert tiny.encode_prompts(["a" * room]).extra["mask"].all()
    with pytest.raises(UserError, match=f"has {room + 1} tokens"):
        tiny.family.require_whole([tiny.tokenizer], ["a" * (room + 1)])


def test_the_side_of_pictures_is_1024_where_its_autoencoder_says_none(folder: Path, tmp_path: Path) -> None:
    check_base(folder, 64, 1000)
    assert QwenImage.from_folder(folder, {}).side == 64
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    assert QwenImage.from_folder(tmp_path, {}).side == 1024
