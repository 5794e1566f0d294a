"""Chroma: conditioning equals that of diffusers' pipeline."""

from pathlib import Path

import pytest
import torch
from diffusers import ChromaTransformer2DModel

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.pretrained import as_pipeline
from quantbooth.diffusion.sampler import initial_noise
from quantbooth.runtime.errors import UserError

NAME = "tiny-chroma"
TEXTS = ["a red mug", "a duck on the beach"]


def test_prompts_are_encoded_as_by_diffusers(tiny: Base) -> None:
    prompts = [*TEXTS, "a" * 510]
    conditioning = tiny.encode_prompts(prompts)
    states, _, mask, *_ = as_pipeline(tiny).encode_prompt(prompts, do_classifier_free_guidance=False)
    assert torch.equal(conditioning.tokens, states)
    assert torch.equal(conditioning.extra["mask"], mask.bool())
    assert mask.sum(1).tolist() == [min(len(text) + 3, 512) for text in prompts]  # letters, a space, the end, one more


def test_the_mask_is_added_to_scores(folder: Path, tiny: Base) -> None:
    """One for tokens and patches, zero for padding; a mask of minus infinity would be another network."""
    noise, t, words = initial_noise(TEXTS, [0, 1], tiny.latent_shape), torch.tensor([3, 900]), None
    words = tiny.encode_prompts(TEXTS)
    transformer = ChromaTransformer2DModel.from_pretrained(str(folder), subfolder="transformer")
    pipeline = as_pipeline(tiny)
    patches = pipeline._pack_latents(noise, *noise.shape)
    mask = torch.cat([words.extra["mask"], torch.ones(2, 16, dtype=torch.bool)], 1)
    places = pipeline._prepare_latent_image_ids(2, 4, 4, "cpu", torch.float32)
    given = {"encoder_hidden_states": words.tokens, "img_ids": places, "txt_ids": torch.zeros(512, 3)}
    with torch.no_grad():
        found = pipeline._pack_latents(tiny.predict(noise, t, words), *noise.shape)
        added, cut = (
            transformer(patches, timestep=(t + 1) / 1000, attention_mask=one, **given).sample
            for one in (mask.float(), mask)
        )
    torch.testing.assert_close(found, added, rtol=0, atol=1e-6)
    assert (found - cut).abs().max() > 1e-3


def test_a_prompt_that_is_longer_than_t5_reads_is_refused(tiny: Base) -> None:
    with pytest.raises(UserError, match="^the prompt has 600 tokens, the text encoder reads 511, so .* would be lost"):
        tiny.encode_prompts(["a " * 300])
