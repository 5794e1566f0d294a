"""PixArt-Sigma: prompts and pictures are those of diffusers' pipeline."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, PixArtTransformer2DModel

from quantbooth.calibration.blocks import blocks_of
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.families.ddpm import DDPM_SCHEDULERS
from quantbooth.diffusion.pretrained import as_pipeline, check_base, empty_denoiser, load_base, save_base
from quantbooth.diffusion.router import route_
from quantbooth.diffusion.sampler import Sampler, initial_noise
from quantbooth.quant import scale_sets
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import matching, quantize_
from quantbooth.runtime.errors import UserError
from quantbooth.timesteps.zones import zones_from_borders

NAME = "tiny-pixart"
TEXTS = ["A red mug", "a duck on the Beach "]
T = 1000


def noise_of(base: Base) -> torch.Tensor:
    return initial_noise(TEXTS, [0, 1], base.latent_shape)


def theirs(pipeline: Any, noise: torch.Tensor) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    size = {"height": 64, "width": 64, "use_resolution_binning": False, "clean_caption": False}
    made = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "pt"}
    found = pipeline(prompt=TEXTS, latents=noise, **size, **made).images
    assert isinstance(found, torch.Tensor)
    return found


@pytest.mark.parametrize("scheduler", ["ddim", "dpm", "euler"])
def test_plain_diffusers_draws_our_pictures(folder: Path, tiny: Base, scheduler: str) -> None:
    ours = Sampler(scheduler, 3, 4.0).sample(tiny, TEXTS, noise_of(tiny))
    for pipeline in (DiffusionPipeline.from_pretrained(str(folder)), as_pipeline(tiny)):
        pipeline.scheduler = DDPM_SCHEDULERS[scheduler].from_config(pipeline.scheduler.config)
        torch.testing.assert_close(ours, theirs(pipeline, noise_of(tiny)), rtol=0, atol=1e-5)
    assert ours.std() > 0.05
    assert tiny.new_scheduler("ddim", 3).config["clip_sample"] is False  # its latents are not in -1 to 1
    assert (tiny.side, tiny.timesteps) == (64, T)


def test_prompts_are_encoded_as_by_diffusers(tiny: Base) -> None:
    conditioning = tiny.encode_prompts(TEXTS)
    states, mask, *_ = as_pipeline(tiny).encode_prompt(TEXTS, do_classifier_free_guidance=False)
    assert torch.equal(conditioning.tokens, states)
    assert torch.equal(conditioning.extra["mask"], mask.bool())
    assert conditioning.tokens.shape == (2, 300, 56)
    assert mask.sum(1).tolist() == [len(text.strip()) + 2 for text in TEXTS]  # letters, the first space, the end


def test_a_t5_in_another_precision_is_read_by_a_plain_pipeline(tiny: Base, tmp_path: Path) -> None:
    save_base(tiny, tmp_path, torch.bfloat16)
    half = load_base(tmp_path, "half")
    assert (half.text_encoder.dtype, half.denoiser.dtype) == (torch.bfloat16, torch.float32)
    assert half.encode_prompts(TEXTS).dtype == torch.float32
    ours = Sampler("ddim", 3, 4.0).sample(half, TEXTS, noise_of(half))
    torch.testing.assert_close(ours, theirs(as_pipeline(half), noise_of(half)), rtol=0, atol=1e-5)


def test_the_prediction_is_the_noise_of_the_prompt_alone(folder: Path, tiny: Base) -> None:
    noise, t, conditioning = noise_of(tiny), torch.tensor([3, 900]), tiny.encode_prompts(TEXTS)
    mask = conditioning.extra["mask"]
    transformer = PixArtTransformer2DModel.from_pretrained(str(folder), subfolder="transformer")
    with torch.no_grad():
        wanted = transformer(noise, conditioning.tokens, t, encoder_attention_mask=mask).sample
        found = tiny.predict(noise, t, conditioning)
        assert torch.equal(found, wanted[:, :4])
        padded, changed = (
            Conditioning(conditioning.tokens + where[..., None].float(), {"mask": mask}) for where in (~mask, mask)
        )
        torch.testing.assert_close(tiny.predict(noise, t, padded), found, rtol=0, atol=1e-6)
        assert not torch.allclose(tiny.predict(noise, t, changed), found, atol=1e-3)


def test_sets_are_routed_in_our_loop_and_in_a_plain_pipeline(folder: Path) -> None:
    base = load_base(folder, "base")
    quantize_(base.denoiser, 4, exclude=base.float_layers)
    selection, chosen = SetSelection(), list[int]()
    scale_sets.attach_(base.denoiser, 2, selection)
    route_(base, zones_from_borders({"low": [0, 500], "high": [500, T]}, T).index, selection)
    base.denoiser.register_forward_hook(lambda *_: chosen.extend(set(selection.choice.tolist())))
    Sampler("ddim", 3, 4.0).sample(base, TEXTS, noise_of(base))
    assert chosen == [2, 1, 1]
    theirs(as_pipeline(base), noise_of(base))
    assert chosen[3:] == [2, 1, 1]


def test_rounding_is_learned_block_by_block_and_checkpointed_gradients_are_the_same(folder: Path) -> None:
    base = load_base(folder, "base")
    layers = matching(base.denoiser, ["*"], base.float_layers)
    words, t = base.encode_prompts(TEXTS), torch.tensor([3, 900])
    units = blocks_of(base.denoiser, base.blocks(), layers, lambda: base.predict(noise_of(base), t, words))
    assert [(unit.name, len(unit.layers)) for unit in units] == [(f"transformer_blocks.{i}", 10) for i in (0, 1)]
    weight = base.denoiser.transformer_blocks[0].attn1.to_q.weight.requires_grad_()
    grads = list[torch.Tensor]()
    for _ in range(2):
        loss = base.predict(noise_of(base), t, words).square().mean()
        grads.append(*torch.autograd.grad(loss, weight))
        base.enable_gradient_checkpointing_()
    assert torch.equal(*grads)
    assert grads[0].abs().max() > 0


def test_the_table_of_places_is_in_no_file_and_in_every_transformer(folder: Path, tiny: Base) -> None:
    empty = empty_denoiser(folder)
    assert all(parameter.is_meta for parameter in empty.parameters())
    assert not [name for name in empty.state_dict() if "pos_embed.pos_embed" in name]
    assert torch.equal(empty.pos_embed.pos_embed, tiny.denoiser.pos_embed.pos_embed)


MAIN, INDEX = "transformer/config.json", "model_index.json"
FORMER = {"num_vector_embeds": None, "double_self_attention": False, "use_linear_projection": False}


def test_files_of_the_older_class_are_the_same_base(
    folder: Path, tiny: Base, edited: Callable[..., Path], tmp_path: Path
) -> None:
    """Diffusers wrote a Transformer2DModel before 0.29."""
    older = {"_class_name": "Transformer2DModel", "only_cross_attention": False, **FORMER}
    one = edited(folder, MAIN, older, "use_additional_conditions")
    copy = edited(one, INDEX, {"transformer": ["diffusers", "Transformer2DModel"]})
    check_base(copy, 64, T)
    again, state = load_base(copy, "older"), tiny.denoiser.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.denoiser.state_dict().items())
    pipeline = DiffusionPipeline.from_pretrained(str(copy))
    assert isinstance(pipeline.transformer, PixArtTransformer2DModel)
    save_base(again, tmp_path / "three", torch.float32)
    check_base(tmp_path / "three", 64, T)


def test_a_prompt_that_is_longer_than_t5_reads_is_refused(tiny: Base) -> None:
    with pytest.raises(UserError, match="^the prompt has 400 tokens, the text encoder reads 299, so .* would be lost"):
        tiny.encode_prompts(["A " * 200])
    with pytest.raises(UserError, match="reads 299, so"):
        tiny.family.require_whole([tiny.tokenizer], ["A " * 200])
