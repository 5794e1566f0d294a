"""Layers that are quantized by default are those of the repeated blocks; of published architectures, on no device."""

import pytest
import torch
from torch import nn

from experiments.random_transformers import TRANSFORMERS
from quantbooth.diffusion.families.chroma import Chroma
from quantbooth.diffusion.families.flux1 import Flux1
from quantbooth.diffusion.families.pixart import PixArtSigma
from quantbooth.diffusion.families.qwen_image import QwenImage
from quantbooth.diffusion.families.sana import Sana
from quantbooth.diffusion.families.zimage import ZImage
from quantbooth.diffusion.model import Family
from quantbooth.quant.surgery import matching


@pytest.mark.parametrize(
    ("name", "family", "quantized", "outside", "gigabytes"),
    [
        ("pixart-sigma", PixArtSigma, 280, 7, 0.297),
        ("flux1-dev", Flux1, 494, 10, 5.917),
        ("qwen-image", QwenImage, 840, 6, 10.192),
        ("chroma", Chroma, 418, 15, 4.303),
        ("zimage", ZImage, 270, 6, 3.071),
        ("sana", Sana, 200, 27, 0.778),
    ],
)
def test_layers_of_the_blocks_are_quantized(
    name: str, family: type[Family], quantized: int, outside: int, gigabytes: float
) -> None:
    with torch.device("meta"):
        denoiser = family().new_denoiser(TRANSFORMERS[name].denoiser)
    layers = {key: one for key, one in denoiser.named_modules() if isinstance(one, nn.Linear | nn.Conv2d)}
    blocks = tuple(f"{block}." for block in family().blocks(denoiser))
    chosen = matching(denoiser, ["*"], family.float_layers)
    inside = [key for key in layers if key.startswith(blocks) and getattr(layers[key], "groups", 1) == 1]
    assert sorted(chosen) == sorted(inside)  # a convolution of one channel a group has too few weights
    assert (len(chosen), len(layers) - len(chosen)) == (quantized, outside)
    assert sum(layers[key].weight.numel() for key in chosen) / 2 / 1e9 == pytest.approx(gigabytes, abs=5e-4)
    assert sum(parameter.numel() for parameter in denoiser.parameters()) == TRANSFORMERS[name].weights
