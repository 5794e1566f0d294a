"""Stable Diffusion 3: conditioning equals that of diffusers' pipeline."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.pretrained import as_pipeline, check_base, load_base
from quantbooth.diffusion.sampler import initial_noise
from quantbooth.runtime.errors import UserError

NAME = "tiny-sd3"
WITHOUT = "tiny-sd3-without-t5"
TEXTS = ["a red mug", "a duck on the beach"]
T = 1000


def noise_of(base: Base) -> torch.Tensor:
    return initial_noise(TEXTS, [0, 1], base.latent_shape)


def test_a_prediction_is_what_the_transformer_of_diffusers_gives(folder: Path, tiny: Base) -> None:
    noise, t = noise_of(tiny), torch.tensor([3, 900])
    transformer = SD3Transformer2DModel.from_pretrained(str(folder), subfolder="transformer")
    pipeline = as_pipeline(tiny)
    with torch.no_grad():
        states, _, pooled, _ = pipeline.encode_prompt(TEXTS, TEXTS, TEXTS, do_classifier_free_guidance=False)
        conditioning = tiny.encode_prompts(TEXTS)
        assert torch.equal(conditioning.tokens, states)
        assert torch.equal(conditioning.extra["pooled"], pooled)
        found = transformer(noise, states, pooled, t + 1).sample
        assert torch.equal(tiny.predict(noise, t, conditioning), found)


def test_a_token_counted_256_times_is_256_tokens(written: Callable[[str], Path]) -> None:
    """Without T5, against diffusers' transformer on all 77 + 256 tokens; the first block has a second attention."""
    base, t = load_base(written(WITHOUT), "base"), torch.tensor([3, 900])
    transformer = SD3Transformer2DModel.from_pretrained(str(written(WITHOUT)), subfolder="transformer")
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


def test_without_t5_both_its_parts_are_null_and_the_width_fits(
    written: Callable[[str], Path], edited: Callable[..., Path]
) -> None:
    folder = written(WITHOUT)
    index = json.loads((folder / "model_index.json").read_text())
    assert index["text_encoder_3"] == index["tokenizer_3"] == [None, None]
    check_base(folder, 64, T)
    copy = edited(folder, "transformer/config.json", {"joint_attention_dim": 40}, weights=False)
    with pytest.raises(UserError, match="joint_attention_dim must be 48 or more, the width of both CLIPs, found 40"):
        check_base(copy, 64, T)


def test_a_prompt_that_is_longer_than_an_encoder_reads_is_refused(tiny: Base) -> None:
    with pytest.raises(UserError, match="^the prompt has 2.. tokens, the text encoder reads 255, so .* would be lost"):
        tiny.family.require_whole([tiny.encoders[2].tokenizer] * 3, ["a " * 130])
    with pytest.raises(UserError, match="reads 75, so"):
        tiny.encode_prompts(["a " * 80])
