"""Families with a flow schedule: pictures, time, sets and files are those of diffusers' own pipelines."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    ChromaPipeline,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    QwenImagePipeline,
    SanaPipeline,
    ZImagePipeline,
)

from quantbooth.calibration.block_cache import capture_inputs
from quantbooth.calibration.blocks import blocks_of
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.families.zimage import ZImage
from quantbooth.diffusion.outline import outline
from quantbooth.diffusion.pretrained import as_pipeline, empty_denoiser, load_base, save_base
from quantbooth.diffusion.router import route_
from quantbooth.diffusion.sampler import Sampler, initial_noise
from quantbooth.planning.live_bytes import emptied_
from quantbooth.planning.stages import counted
from quantbooth.quant import scale_sets
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import matching, quantize_
from quantbooth.runtime.errors import UserError
from quantbooth.timesteps.zones import zones_from_borders

NAMES = [
    "tiny-sd3",
    "tiny-sd3-without-t5",
    "tiny-klein",
    "tiny-flux1",
    "tiny-qwen-image",
    "tiny-chroma",
    "tiny-zimage",
    "tiny-sana",
]
TEXTS = ["a red mug", "a duck on the beach"]
T = 1000


@pytest.fixture(scope="module", params=NAMES)
def folder(request: pytest.FixtureRequest, written: Callable[[str], Path]) -> Path:
    return written(request.param)


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    return load_base(folder, "base")


def noise_of(base: Base) -> torch.Tensor:
    return initial_noise(TEXTS, [0, 1], base.latent_shape)


def ours(base: Base) -> torch.Tensor:
    return Sampler("flow_euler", 3, 4.0 if base.family.guided else 1.0).sample(base, TEXTS, noise_of(base))


def theirs(pipeline: Any, noise: torch.Tensor, side: int) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    size: dict[str, Any] = {"height": side, "width": side, "output_type": "pt"}
    if isinstance(pipeline, FluxPipeline | QwenImagePipeline | ChromaPipeline):
        noise = pipeline._pack_latents(noise, *noise.shape)
    if isinstance(pipeline, QwenImagePipeline):
        size |= {"true_cfg_scale": 4.0, "negative_prompt": [""] * len(TEXTS)}
    elif isinstance(pipeline, ZImagePipeline):  # cond + s (cond - uncond)
        size["guidance_scale"] = 3.0
    elif not isinstance(pipeline, FluxPipeline):  # its own weight of guidance is its default
        size["guidance_scale"] = 4.0
    if isinstance(pipeline, SanaPipeline):
        size["use_resolution_binning"] = False
    found = pipeline(prompt=[*TEXTS], latents=noise, num_inference_steps=3, **size).images
    assert isinstance(found, torch.Tensor)
    return found


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.chain
def test_plain_diffusers_draws_our_pictures(folder: Path, base: Base, dynamic: bool) -> None:
    changed = {"use_dynamic_shifting": dynamic}
    pipeline = DiffusionPipeline.from_pretrained(str(folder), **dict.fromkeys(base.family.absent_parts))
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config({**pipeline.scheduler.config, **changed})
    shifted = replace(base, scheduler_config={**base.scheduler_config, **changed})
    if dynamic and isinstance(pipeline, SanaPipeline):  # which gives its scheduler no mu
        with pytest.raises(UserError, match=r"^sampler\.scheduler=flow_euler cannot be made .* mu"):
            ours(shifted)
        return
    drawn = ours(shifted)
    for one in (pipeline, as_pipeline(shifted)):
        torch.testing.assert_close(drawn, theirs(one, noise_of(base), base.side), rtol=0, atol=1e-5)
    assert drawn.std() > 0.05
    assert (base.side, base.timesteps) == (64, T)


@pytest.mark.chain
def test_a_base_comes_back_bit_for_bit(base: Base, tmp_path: Path) -> None:
    save_base(base, tmp_path, torch.float32)
    again = load_base(tmp_path, "again")
    for left, right in zip(base.networks, again.networks, strict=True):
        assert all(torch.equal(tensor, right.state_dict()[key]) for key, tensor in left.state_dict().items())
    one, other = (each.encode_prompts(TEXTS).tensors for each in (base, again))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert (again.scheduler_config, again.family) == (base.scheduler_config, base.family)


@pytest.mark.chain
def test_large_text_encoders_stay_in_the_precision_of_their_files(folder: Path, tmp_path: Path) -> None:
    base = load_base(folder, "base")
    save_base(base, tmp_path, torch.bfloat16)
    half = load_base(tmp_path, "half")
    assert [encoder.network.dtype == torch.bfloat16 for encoder in half.encoders] == [
        type(encoder.network) in base.family.large_texts for encoder in half.encoders
    ]
    one, other = base.encode_prompts(TEXTS), half.encode_prompts(TEXTS)
    for name, tensor in one.tensors.items():
        assert other.tensors[name].dtype == tensor.dtype
        torch.testing.assert_close(tensor, other.tensors[name], rtol=0.1, atol=0.1)


def test_network_time_comes_back_as_the_training_timestep(base: Base) -> None:
    times: list[torch.Tensor] = []
    t, words = torch.arange(T), base.encode_prompts(["a"]).expand(100)
    for some in t.split(100):
        call = capture_inputs(base.denoiser, partial(base.predict, torch.zeros(100, *base.latent_shape), some, words))
        times.append(base.family.call_of(call.args, call.kwargs)[1])
    unit = {"StableDiffusion3": 1, "StableDiffusion3WithoutT5": 1, "Sana": 1}.get(type(base.family).__name__, 1000)
    zero, sign = (1, -1) if isinstance(base.family, ZImage) else (0, 1)
    torch.testing.assert_close(torch.cat(times), zero + sign * (t + 1) / unit, rtol=0, atol=1e-7)
    assert torch.equal(base.family.training_timestep(torch.cat(times)), t.float())
    assert base.family.training_timestep(torch.tensor(zero + sign * 0.4 / unit)) == 0


@pytest.mark.chain
def test_sets_are_routed_in_our_loop_and_in_a_plain_pipeline(folder: Path) -> None:
    base = load_base(folder, "base")
    quantize_(base.denoiser, 4, exclude=base.float_layers)
    selection = SetSelection()
    scale_sets.attach_(base.denoiser, 2, selection)
    timesteps = Sampler("flow_euler", 3, 4.0).new_scheduler(base).timesteps
    border = int(timesteps[1]) + 1
    route_(base, zones_from_borders({"low": [0, border], "high": [border, T]}, T).index, selection)
    chosen: list[int] = []
    base.denoiser.register_forward_hook(lambda *_: chosen.extend(set(selection.choice.tolist())))
    ours(base)
    assert chosen == [2, 1, 1]
    theirs(as_pipeline(base), noise_of(base), base.side)
    assert chosen[3:] == [number for number in chosen[:3] for _ in range((len(chosen) - 3) // 3)]


def test_latents_are_scaled_back_before_they_are_decoded(base: Base) -> None:
    with torch.no_grad():
        latents = base.encode_images(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert latents.shape[1:] == base.latent_shape
    config = base.autoencoder.config
    if "latents_mean" in config and "z_dim" in config:
        mean, deviation = (torch.tensor(one).view(1, -1, 1, 1, 1) for one in (config.latents_mean, config.latents_std))
        raw = latents[:, :, None] * deviation + mean
    elif "scaling_factor" in config:
        raw = latents / config.scaling_factor + config.get("shift_factor", 0)
    else:
        norm = base.autoencoder.bn
        norm.eval()
        raw = latents * (norm.running_var + config.batch_norm_eps).sqrt().view(1, -1, 1, 1)
        raw = torch.nn.functional.pixel_shuffle(raw + norm.running_mean.view(1, -1, 1, 1), 2)
    expected = (base.autoencoder.decode(raw).sample / 2 + 0.5).clamp(0, 1).view(2, 3, 64, 64)
    torch.testing.assert_close(base.decode_latents(latents), expected, rtol=0, atol=1e-6)


def test_rounding_is_learned_block_by_block_and_checkpointed_gradients_are_the_same(folder: Path) -> None:
    base = load_base(folder, "base")
    layers = matching(base.denoiser, ["*"], base.float_layers)
    words, t = base.encode_prompts(TEXTS), torch.tensor([3, 900])
    units = blocks_of(base.denoiser, base.blocks(), layers, lambda: base.predict(noise_of(base), t, words))
    assert {unit.name for unit in units} >= {*base.blocks()}
    assert sorted(name for unit in units for name in unit.layers) == sorted(layers)
    weight = base.denoiser.get_submodule(units[-1].layers[0]).weight.requires_grad_()
    grads = list[torch.Tensor]()
    for _ in range(2):
        loss = base.predict(noise_of(base), t, words).square().mean()
        grads.append(*torch.autograd.grad(loss, weight))
        base.enable_gradient_checkpointing_()
    assert torch.equal(*grads)
    assert grads[0].abs().max() > 0


def test_every_condition_changes_what_is_predicted(base: Base) -> None:
    one = base.encode_prompts(TEXTS)
    changed = {name: tensor + 1 if tensor.is_floating_point() else ~tensor for name, tensor in one.tensors.items()}
    with torch.no_grad():
        wanted = base.predict(noise_of(base), torch.tensor(500), one)
        for name, tensor in changed.items():
            other = Conditioning.from_tensors({**one.tensors, name: tensor})
            assert not torch.allclose(base.predict(noise_of(base), torch.tensor(500), other), wanted, atol=1e-4)


def test_an_empty_denoiser_has_every_tensor_that_is_in_no_file(folder: Path, base: Base) -> None:
    """With the weights of the whole network, one from the meta device predicts the same."""
    empty = empty_denoiser(folder)
    empty.load_state_dict(base.denoiser.state_dict(), assign=True)
    words = base.encode_prompts(TEXTS)
    with torch.no_grad():
        wanted, found = (
            one.predict(noise_of(base), torch.tensor(500), words) for one in (base, base.with_denoiser(empty))
        )
    assert torch.equal(wanted, found)


@pytest.mark.chain
def test_a_plan_encodes_prompts_in_the_precision_of_the_files(base: Base, tmp_path: Path) -> None:
    save_base(base, tmp_path, torch.bfloat16)
    with counted():
        made = outline(tmp_path, "planned")
        for encoder in made.text_encoders:
            emptied_(encoder, torch.device("cpu"))
        words = made.encode_prompts(TEXTS)
    assert [encoder.dtype for encoder in made.text_encoders] == [
        torch.bfloat16 if isinstance(encoder, base.family.large_texts) else torch.float32
        for encoder in made.text_encoders
    ]
    assert {name: tensor.shape for name, tensor in words.tensors.items()} == {
        name: tensor.shape for name, tensor in base.encode_prompts(TEXTS).tensors.items()
    }


def test_another_sampler_is_refused_with_the_one_it_has(base: Base) -> None:
    with pytest.raises(UserError, match=r"^sampler\.scheduler must be flow_euler for this base, got 'ddim'; choose"):
        Sampler("ddim", 3, 4.0).new_scheduler(base)
