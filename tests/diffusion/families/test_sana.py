"""Sana: conditioning and pictures equal those of diffusers' pipeline, its scheduler."""

import json
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, SanaPipeline

from composing import composed
from experiments.transformer_numbers import DPM_FLOW
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.families.sana import Sana
from quantbooth.diffusion.pretrained import as_pipeline, check_base, load_base, save_base
from quantbooth.diffusion.sampler import Sampler, initial_noise
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError

NAME = "tiny-sana"
TEXTS = ["A red mug", "a duck on the Beach "]
INDEX, SCHEDULER = "model_index.json", "scheduler/scheduler_config.json"


def test_prompts_follow_the_instruction_of_diffusers_and_the_empty_one_does_not(tiny: Base) -> None:
    pipeline = as_pipeline(tiny)
    instruction = signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    states, mask, empty, empty_mask = pipeline.encode_prompt(TEXTS, complex_human_instruction=instruction)
    for prompts, wanted, kept in ((TEXTS, states, mask), (["", ""], empty, empty_mask)):
        found = tiny.encode_prompts(prompts)
        assert found.tokens.shape == (2, 300, 16)
        assert torch.equal(found.extra["mask"], kept.bool())
        torch.testing.assert_close(found.tokens[kept.bool()], wanted[kept.bool()], rtol=0, atol=1e-5)
    assert mask.sum(1).tolist() == [len(text.strip()) + 2 for text in TEXTS]  # the instruction's first and last
    assert empty_mask.sum(1).tolist() == [1, 1]


def test_padding_is_not_read(tiny: Base) -> None:
    noise, words = initial_noise(TEXTS, [0, 1], tiny.latent_shape), tiny.encode_prompts(TEXTS)
    padding = ~words.extra["mask"]
    changed = Conditioning(words.tokens + padding[..., None].float(), words.extra)
    with torch.no_grad():
        found, same = (tiny.predict(noise, torch.tensor(500), one) for one in (words, changed))
    torch.testing.assert_close(found, same, rtol=0, atol=1e-6)


def test_a_dpm_solver_on_flow_sigmas_is_a_flow_of_its_shift(
    folder: Path, edited: Callable[..., Path], tmp_path: Path
) -> None:
    """The file of the published bases; exported folders have the scheduler that draws our pictures."""
    copy = edited(folder, INDEX, {"scheduler": ["diffusers", "DPMSolverMultistepScheduler"]})
    (copy / SCHEDULER).write_text(json.dumps(DPM_FLOW))
    check_base(copy, 64, 1000)
    base, pipeline = load_base(copy, "dpm"), DiffusionPipeline.from_pretrained(str(copy))
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    noise = initial_noise(TEXTS, [0, 1], base.latent_shape)
    pipeline.set_progress_bar_config(disable=True)
    made = {"height": 64, "width": 64, "num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "pt"}
    theirs = pipeline(prompt=TEXTS, latents=noise, use_resolution_binning=False, **made).images
    torch.testing.assert_close(Sampler("flow_euler", 3, 4.0).sample(base, TEXTS, noise), theirs, rtol=0, atol=1e-5)
    assert Sana().shift_factor(base.scheduler_config, 3, base.latent_shape) == 3.0
    save_base(base, tmp_path / "exported", torch.float32)
    assert json.loads((tmp_path / "exported" / SCHEDULER).read_text())["shift"] == 3.0


def test_a_negative_prompt_is_refused(folder: Path) -> None:
    given = ("base=sana", f"base.path={folder}", "base.resolution=64", "sampler=flow_euler")
    assert Run(composed(*given)).sampler.guidance > 1
    with pytest.raises(UserError, match=r"^negative_prompt has no instruction .* got 'blurry'"):
        _ = Run(composed(*given, "negative_prompt=blurry")).sampler


def test_a_prompt_that_is_longer_than_the_encoder_reads_is_refused(tiny: Base) -> None:
    with pytest.raises(UserError, match="^the prompt has 299 tokens, the text encoder reads 298, so 'a' would be lost"):
        tiny.encode_prompts(["a" * 299])
    assert tiny.encode_prompts(["a" * 298]).extra["mask"].all()
