"""Sana: conditioning and pictures equal those of diffusers' pipeline, its scheduler, and what its files may not say."""

import json
import shutil
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, SanaPipeline

from composing import composed
from experiments.random_base import random_base
from experiments.transformer_numbers import DPM_FLOW
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.families.sana import Sana
from quantbooth.diffusion.pretrained import as_pipeline, check_base, load_base, save_base
from quantbooth.diffusion.sampler import Sampler, initial_noise
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError

TEXTS = ["A red mug", "a duck on the Beach "]
MAIN, VAE, INDEX = "transformer/config.json", "vae/config.json", "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sana")
    save_base(random_base("tiny-sana"), made, torch.float32)
    return made


@pytest.fixture(scope="module")
def sana(folder: Path) -> Base:
    return load_base(folder, "tiny-sana")


def test_prompts_follow_the_instruction_of_diffusers_and_the_empty_one_does_not(sana: Base) -> None:
    pipeline = as_pipeline(sana)
    instruction = signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    states, mask, empty, empty_mask = pipeline.encode_prompt(TEXTS, complex_human_instruction=instruction)
    for prompts, wanted, kept in ((TEXTS, states, mask), (["", ""], empty, empty_mask)):
        found = sana.encode_prompts(prompts)
        assert found.tokens.shape == (2, 300, 16)
        assert torch.equal(found.extra["mask"], kept.bool())
        torch.testing.assert_close(found.tokens[kept.bool()], wanted[kept.bool()], rtol=0, atol=1e-5)
    assert mask.sum(1).tolist() == [len(text.strip()) + 2 for text in TEXTS]  # the instruction's first and last
    assert empty_mask.sum(1).tolist() == [1, 1]


def test_padding_is_not_read(sana: Base) -> None:
    noise, words = initial_noise(TEXTS, [0, 1], sana.latent_shape), sana.encode_prompts(TEXTS)
    padding = ~words.extra["mask"]
    changed = Conditioning(words.tokens + padding[..., None].float(), words.extra)
    with torch.no_grad():
        found, same = (sana.predict(noise, torch.tensor(500), one) for one in (words, changed))
    torch.testing.assert_close(found, same, rtol=0, atol=1e-6)


def test_a_dpm_solver_on_flow_sigmas_is_a_flow_of_its_shift(folder: Path, tmp_path: Path) -> None:
    """The file of the published bases; exported folders have the scheduler that draws our pictures."""
    copy = Path(shutil.copytree(folder, tmp_path / "base"))
    (copy / SCHEDULER).write_text(json.dumps(DPM_FLOW))
    index = json.loads((copy / INDEX).read_text())
    (copy / INDEX).write_text(json.dumps({**index, "scheduler": ["diffusers", "DPMSolverMultistepScheduler"]}))
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


def test_a_prompt_that_is_longer_than_the_encoder_reads_is_refused(sana: Base) -> None:
    with pytest.raises(UserError, match="^the prompt has 299 tokens, the text encoder reads 298, so 'a' would be lost"):
        sana.encode_prompts(["a" * 299])
    assert sana.encode_prompts(["a" * 298]).extra["mask"].all()


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        (MAIN, {"guidance_embeds": True}, "guidance_embeds must be false to be supported, found true"),
        (MAIN, {"timestep_scale": 0.001}, "timestep_scale must be 1.0 .* found 0.001"),
        (MAIN, {"interpolation_scale": 2.0}, "interpolation_scale must be null to be supported, found 2.0"),
        (MAIN, {"in_channels": 8}, "in_channels must be 4 as latent_channels of vae/, found 8"),
        (MAIN, {"out_channels": 8}, "out_channels must be 4 as latent_channels of vae/, found 8"),
        (MAIN, {"caption_channels": 32}, "caption_channels must be 16 as hidden_size of text_encoder/, found 32"),
        (MAIN, {"patch_size": 2}, "patch_size must be 1 as each latent is a token, found 2"),
        (VAE, {"decoder_block_out_channels": [8, 8]}, "must be of one length, found"),
        (INDEX, {"vae": ["diffusers", "AutoencoderKL"]}, "vae must be one of AutoencoderDC"),
        (INDEX, {"scheduler": ["diffusers", "SCMScheduler"]}, "scheduler must be one of FlowMatchEuler"),
        (
            SCHEDULER,
            {**DPM_FLOW, "use_flow_sigmas": False},
            "use_flow_sigmas must be true .* found false",
        ),
        (SCHEDULER, {**DPM_FLOW, "prediction_type": "epsilon"}, 'prediction_type must be "flow_prediction"'),
        (SCHEDULER, {**DPM_FLOW, "use_karras_sigmas": True}, "use_karras_sigmas must be false or null"),
    ],
    ids=str,
)
def test_what_is_not_supported_is_refused_by_file_and_key(
    folder: Path, tmp_path: Path, file: str, change: dict[str, Any], says: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors")))
    said = {} if file == SCHEDULER else json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps({**said, **change}))
    with pytest.raises(UserError, match=f"{Path(file).name}.*{says}"):
        check_base(copy, 64, 1000)
