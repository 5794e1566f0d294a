"""Names of the original code: diffusers' translation gives the unet back, and LoRA files with them load."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from experiments.bench.sizes import SIZES, empty_denoiser
from experiments.random_base import ARCHITECTURES
from quantbooth.diffusion.families.sdxl import StableDiffusionXL
from quantbooth.diffusion.lora_names import Names, original_name

PREFIX = "model.diffusion_model."


def meta_unet(name: str) -> Any:
    if name in SIZES:
        return empty_denoiser(name)
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(ARCHITECTURES[name]["denoiser"])


@pytest.mark.parametrize("name", ["tiny", "tiny-xl", "sd15", "sd21", "sdxl"])
def test_diffusers_translates_the_names_back(name: str) -> None:
    denoiser = meta_unet(name)
    state = denoiser.state_dict()
    original = {f"{PREFIX}{original_name(denoiser, key)}": tensor for key, tensor in state.items()}
    assert len(original) == len(state)
    back = convert_ldm_unet_checkpoint(dict(original), dict(denoiser.config))
    assert {key: tensor.shape for key, tensor in back.items()} == {key: tensor.shape for key, tensor in state.items()}
    assert all(back[key] is tensor for key, tensor in state.items())


@pytest.mark.parametrize(
    ("key", "layer"),
    [
        (
            "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k.lora_down.weight",
            "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k",
        ),
        ("lora_unet_input_blocks_7_1_proj_in.lora_up.weight", "down_blocks.2.attentions.0.proj_in"),
        ("lora_unet_middle_block_2_in_layers_2.alpha", "mid_block.resnets.1.conv1"),
        ("lora_unet_output_blocks_2_2_conv.lora_down.weight", "up_blocks.0.upsamplers.0.conv"),
        ("lora_unet_output_blocks_8_0_emb_layers_1.lora_down.weight", "up_blocks.2.resnets.2.time_emb_proj"),
        ("lora_unet_label_emb_0_2.lora_down.weight", "add_embedding.linear_2"),
    ],
)
def test_lora_files_for_sdxl_are_understood(key: str, layer: str) -> None:
    found = Names(StableDiffusionXL(), {"unet": meta_unet("sdxl")}).find(key)
    assert found is not None
    assert found[0] == ("unet", layer)


def test_what_the_original_code_has_not_has_no_name() -> None:
    denoiser = meta_unet("tiny")
    assert original_name(denoiser, "class_embedding.linear_1") is None
    assert original_name(denoiser, "down_blocks.0.resnets.0.conv1") == "input_blocks.1.0.in_layers.2"
