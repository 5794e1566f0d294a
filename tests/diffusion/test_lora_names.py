"""Names in LoRA files: every format's name of a layer finds it; unknown and ambiguous names are refused."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.families.stable_diffusion import StableDiffusion
from quantbooth.diffusion.lora_names import Names, parts_of, to_peft
from quantbooth.quant import adapters
from quantbooth.runtime.errors import UserError

BLOCK = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
FLAT = BLOCK.replace(".", "_")
CLIP = "encoder.layers.0.self_attn.q_proj"
KEYS = {
    f"unet.{BLOCK}.to_q.lora_A.weight": ("unet", f"{BLOCK}.to_q", "A"),
    f"unet.{BLOCK}.to_out.0.lora_B.weight": ("unet", f"{BLOCK}.to_out.0", "B"),
    f"{BLOCK}.to_q.lora_A.weight": ("unet", f"{BLOCK}.to_q", "A"),
    f"base_model.model.{BLOCK}.to_q.lora_B.weight": ("unet", f"{BLOCK}.to_q", "B"),
    f"base_model.model.{BLOCK}.to_q.lora_B.default.weight": ("unet", f"{BLOCK}.to_q", "B"),
    f"unet.{BLOCK}.to_q.lora.down.weight": ("unet", f"{BLOCK}.to_q", "A"),
    f"unet.{BLOCK}.processor.to_out_lora.up.weight": ("unet", f"{BLOCK}.to_out.0", "B"),
    f"{BLOCK}.processor.to_v_lora.down.weight": ("unet", f"{BLOCK}.to_v", "A"),
    f"unet.{BLOCK}.to_q.alpha": ("unet", f"{BLOCK}.to_q", "alpha"),
    f"lora_unet_{FLAT}_to_q.lora_down.weight": ("unet", f"{BLOCK}.to_q", "A"),
    f"lora_unet_{FLAT}_to_out_0.lora_up.weight": ("unet", f"{BLOCK}.to_out.0", "B"),
    f"lora_unet_{FLAT}_to_out_0.alpha": ("unet", f"{BLOCK}.to_out.0", "alpha"),
    "lora_unet_conv_in.lora_down.weight": ("unet", "conv_in", "A"),
    f"text_encoder.{CLIP}.lora_A.weight": ("text_encoder", CLIP, "A"),
    f"text_encoder.text_model.{CLIP}.lora_linear_layer.up.weight": ("text_encoder", CLIP, "B"),
    f"base_model.model.text_model.{CLIP}.lora_A.weight": ("text_encoder", CLIP, "A"),
    f"lora_te_text_model_{CLIP.replace('.', '_')}.lora_down.weight": ("text_encoder", CLIP, "A"),
    f"lora_te1_text_model_{CLIP.replace('.', '_')}.alpha": ("text_encoder", CLIP, "alpha"),
}


@pytest.mark.parametrize("key", KEYS)
def test_a_layer_is_found_by_each_of_its_names(base: Base, key: str) -> None:
    found = Names(base.family, parts_of(base)).find(key)
    assert found is not None
    (part, layer), half = found
    assert (part, layer.removeprefix("text_model."), half) == KEYS[key]


@pytest.mark.parametrize(
    "key",
    [
        "lora_unet_input_blocks_9_1_proj_in.lora_down.weight",
        f"unet.{BLOCK}.to_z.lora_A.weight",
        f"unet.{BLOCK}.to_q.lora_magnitude_vector",
        f"lora_unet_{FLAT}_to_q.hada_w1_a",
        f"lora_unet_{FLAT}_to_q.lora_mid.weight",
        "conv_in.weight",
        "alpha",
    ],
)
def test_what_is_no_factor_of_a_layer_means_nothing(base: Base, key: str) -> None:
    assert Names(base.family, parts_of(base)).find(key) is None


def test_every_layer_has_names_of_its_own(base: Base) -> None:
    names = Names(base.family, parts_of(base))
    for part, network in parts_of(base).items():
        for layer in adapters.layers(network):
            assert names.find(f"{part}.{layer}.lora_A.weight") == ((part, layer), "A")
    for layer in adapters.layers(base.denoiser):
        assert names.find(f"lora_unet_{layer.replace('.', '_')}.alpha") == (("unet", layer), "alpha")


def test_underscores_that_may_mean_two_layers_are_refused() -> None:
    inner = nn.Sequential(OrderedDict({"b_c": nn.Linear(2, 2)}))
    other = nn.Sequential(OrderedDict({"c": nn.Linear(2, 2)}))
    names = Names(StableDiffusion(), {"unet": nn.Sequential(OrderedDict({"a": inner, "a_b": other}))})
    with pytest.raises(UserError, match=r"^'lora_unet_a_b_c.alpha' may mean 'a.b_c' or 'a_b.c'$"):
        names.find("lora_unet_a_b_c.alpha")
    assert names.find("unet.a_b.c.alpha") == (("unet", "a_b.c"), "alpha")


def test_both_text_encoders_of_sdxl_have_names_of_their_own() -> None:
    one, two = (
        nn.Sequential(OrderedDict({"text_model": nn.Sequential(OrderedDict({"fc": nn.Linear(2, 2)}))})) for _ in "12"
    )
    names = Names(
        StableDiffusion(), {"unet": nn.Sequential(nn.Linear(2, 2)), "text_encoder": one, "text_encoder_2": two}
    )
    for key, part in {
        **{"lora_te1_text_model_fc.alpha": "text_encoder", "lora_te2_text_model_fc.alpha": "text_encoder_2"},
        **{"text_encoder.text_model.fc.alpha": "text_encoder", "text_encoder_2.text_model.fc.alpha": "text_encoder_2"},
        **{"text_encoder.fc.alpha": "text_encoder", "text_encoder_2.fc.alpha": "text_encoder_2"},
    }.items():
        assert names.find(key) == ((part, "text_model.fc"), "alpha")


def test_examples_are_names_of_this_base(base: Base) -> None:
    examples = Names(base.family, parts_of(base)).examples()
    assert len(examples) == 2 and all(name.startswith("unet.") for name in examples)


def test_what_was_tuned_is_named_as_diffusers_does_and_only_one_set_is() -> None:
    sets = {"conv.lora_A": torch.ones(1, 2, 4, 3, 3), "conv.lora_B": torch.ones(1, 6, 2)}
    sets |= {"q.lora_A": torch.ones(1, 2, 4), "q.lora_B": torch.ones(1, 5, 2)}
    assert {name: tuple(rows.shape) for name, rows in to_peft(sets, "unet").items()} == {
        **{"unet.conv.lora_A.weight": (2, 4, 3, 3), "unet.conv.lora_B.weight": (6, 2, 1, 1)},
        **{"unet.q.lora_A.weight": (2, 4), "unet.q.lora_B.weight": (5, 2)},
    }
    with pytest.raises(UserError, match="^a LoRA file holds one set of adapters for all timesteps, got 3$"):
        to_peft({name: rows.expand(3, *rows.shape[1:]) for name, rows in sets.items()}, "unet")
