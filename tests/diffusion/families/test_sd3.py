"""Stable Diffusion 3: conditioning, time and pictures equal those of diffusers' own transformer and pipeline."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

from experiments.random_base import random_base
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.pretrained import as_pipeline, check_base, load_base, save_base
from quantbooth.diffusion.router import route_
from quantbooth.diffusion.sampler import Sampler, initial_noise
from quantbooth.quant import scale_sets
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import quantize_
from quantbooth.runtime.errors import UserError
from quantbooth.timesteps.zones import zones_from_borders

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


def theirs(pipeline: Any, noise: torch.Tensor) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    side = 8 * noise.shape[-1]
    found = pipeline(
        *(TEXTS,), latents=noise, height=side, width=side, num_inference_steps=3, guidance_scale=4.0, output_type="pt"
    ).images
    assert isinstance(found, torch.Tensor)
    return found


@pytest.mark.parametrize("changed", [{}, {"use_dynamic_shifting": True}], ids=["shift", "by tokens"])
def test_plain_diffusers_draws_our_pictures(folder: Path, sd3: Base, changed: dict[str, bool]) -> None:
    noise = noise_of(sd3)
    pipeline = DiffusionPipeline.from_pretrained(str(folder))
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config({**pipeline.scheduler.config, **changed})
    base = Base(sd3.name, sd3.family, sd3.denoiser, sd3.autoencoder, sd3.encoders, {**sd3.scheduler_config, **changed})
    ours = Sampler("flow_euler", 3, 4.0).sample(base, TEXTS, noise)
    torch.testing.assert_close(ours, theirs(pipeline, noise), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours, theirs(as_pipeline(base), noise), rtol=0, atol=1e-5)
    assert ours.std() > 0.05
    assert (base.side, base.timesteps) == (64, T)


def test_a_base_comes_back_bit_for_bit(sd3: Base, tmp_path: Path) -> None:
    save_base(sd3, tmp_path, torch.float32)
    again = load_base(tmp_path, "again")
    for left, right in zip(sd3.networks, again.networks, strict=True):
        assert all(torch.equal(tensor, right.state_dict()[key]) for key, tensor in left.state_dict().items())
    one, other = (each.encode_prompts(TEXTS).tensors for each in (sd3, again))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert again.scheduler_config == sd3.scheduler_config


def test_network_time_comes_back_as_the_training_timestep(sd3: Base) -> None:
    times: list[torch.Tensor] = []
    hook = sd3.denoiser.register_forward_pre_hook(
        lambda _m, _a, kwargs: times.append(kwargs["timestep"]), with_kwargs=True
    )
    t = torch.arange(T)
    with torch.no_grad():
        sd3.predict(torch.zeros(T, *sd3.latent_shape), t, sd3.encode_prompts(["a"]).expand(T))
    hook.remove()
    assert torch.equal(times[0], torch.arange(1, T + 1).float())
    assert torch.equal(sd3.family.training_timestep(times[0]), t.float())


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


@pytest.mark.parametrize("name", ["tokens", "pooled"])
def test_each_condition_changes_what_is_predicted(sd3: Base, name: str) -> None:
    with torch.no_grad():
        one = sd3.encode_prompts(TEXTS)
        other = Conditioning.from_tensors({**one.tensors, name: one.tensors[name] + 1})
        left, right = (sd3.predict(noise_of(sd3), torch.tensor(500), each) for each in (one, other))
    assert not torch.allclose(left, right)


def test_sets_are_routed_in_our_loop_and_in_a_plain_pipeline(folder: Path) -> None:
    base = load_base(folder, "tiny-sd3")
    quantize_(base.denoiser, 4, exclude=base.float_layers)
    selection = SetSelection()
    scale_sets.attach_(base.denoiser, 2, selection)
    route_(base, zones_from_borders({"low": [0, 800], "high": [800, T]}, T).index, selection)
    chosen: list[int] = []
    base.denoiser.register_forward_hook(lambda *_: chosen.extend(selection.choice[:1].tolist()))
    noise = noise_of(base)
    Sampler("flow_euler", 3, 4.0).sample(base, TEXTS, noise)
    timesteps = Sampler("flow_euler", 3, 4.0).new_scheduler(base).timesteps
    assert chosen == [2 if t >= 800 else 1 for t in timesteps] == [2, 1, 1]
    theirs(as_pipeline(base), noise)
    assert chosen[3:] == chosen[:3]


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


def test_another_sampler_is_refused_with_the_one_it_has(sd3: Base) -> None:
    with pytest.raises(UserError, match=r"^sampler\.scheduler must be flow_euler for this base, got 'ddim'; choose"):
        Sampler("ddim", 3, 4.0).new_scheduler(sd3)


def test_a_prompt_that_is_longer_than_an_encoder_reads_is_refused(sd3: Base) -> None:
    with pytest.raises(UserError, match="^the prompt has 2.. tokens, the text encoder reads 255, so .* would be lost"):
        sd3.family.require_whole([sd3.encoders[2].tokenizer] * 3, ["a " * 130])
    with pytest.raises(UserError, match="reads 75, so"):
        sd3.encode_prompts(["a " * 80])
