"""The denoisers that are measured: true architectures as numbers, so that nothing is downloaded.

The numbers are those of the published `unet/config.json` files where they differ from diffusers' defaults. The count of
weights is asserted whenever a denoiser is made: a changed default of the library cannot pass as the model named.
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel

__all__ = ["SIZES", "Size", "empty_denoiser"]


@dataclass(frozen=True)
class Size:
    """One architecture.

    Attributes:
        config: arguments of `UNet2DConditionModel`.
        parameters: how many float weights it has.
        linear: how many of them are matrices of linear layers.
        text: width of the text encoder's output, which is 77 tokens long.
        pooled: width of SDXL's pooled text embedding; 0 where the denoiser takes none.
    """

    config: dict[str, Any]
    parameters: int
    linear: int
    text: int
    pooled: int = 0


SIZES = {
    "sd15": Size({"sample_size": 64, "cross_attention_dim": 768}, 859_520_964, 270_049_280, 768),
    "sdxl": Size(
        {
            "sample_size": 128,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "block_out_channels": [320, 640, 1280],
            "transformer_layers_per_block": [1, 2, 10],
            "attention_head_dim": [5, 10, 20],
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        2_567_463_684,
        2_232_647_680,
        2048,
        1280,
    ),
    "tiny": Size(
        {
            "sample_size": 8,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
            "block_out_channels": [16, 32],
            "layers_per_block": 1,
            "attention_head_dim": 4,
            "norm_num_groups": 4,
            "cross_attention_dim": 24,
        },
        201_924,
        54_528,
        24,
    ),
}
"""`tiny` is there to test the program, not to be measured."""


def empty_denoiser(name: str) -> UNet2DConditionModel:
    """The denoiser on the meta device: its architecture without a byte of weights.

    Raises:
        RuntimeError: when the library makes another number of weights of these numbers.
    """
    size = SIZES[name]
    with torch.device("meta"):
        denoiser = UNet2DConditionModel.from_config(size.config)
    found = sum(parameter.numel() for parameter in denoiser.parameters())
    if found != size.parameters:
        raise RuntimeError(f"the denoiser of {name} must have {size.parameters} weights, diffusers makes {found}")
    return denoiser
