"""The denoisers that are measured: true architectures as numbers, so that nothing is downloaded.

The numbers are those of the published `unet/config.json` files where they differ from diffusers' defaults. The count of
weights is asserted whenever a denoiser is made: a changed default of the library cannot pass as the model named.
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from experiments.transformer_numbers import KLEIN_4B, SD35_MEDIUM, TINY_KLEIN, TINY_SD3
from quantbooth.diffusion.families.flux2 import Flux2Klein
from quantbooth.diffusion.families.sd3 import StableDiffusion3
from quantbooth.diffusion.model import Family

__all__ = ["FLOAT_ENDS", "SIZES", "Size", "empty_denoiser", "float_layers"]


@dataclass(frozen=True)
class Size:
    """One architecture.

    Attributes:
        config: arguments of the denoiser's class.
        parameters: how many float weights it has.
        linear: how many of them are matrices of linear layers.
        text: width of the text encoders' output.
        pooled: width of the pooled text embedding; 0 where the denoiser takes none.
        channels: of latents, as the denoiser is given them.
        tokens: how many the text encoders give.
        family: of a transformer, which calls it; None for a `UNet2DConditionModel`.
    """

    config: dict[str, Any]
    parameters: int
    linear: int
    text: int
    pooled: int = 0
    channels: int = 4
    tokens: int = 77
    family: Family | None = None

    @property
    def denoiser_class(self) -> Any:
        """The class of diffusers."""
        return UNet2DConditionModel if self.family is None else self.family.denoiser_class


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
    "sd35-medium": Size(SD35_MEDIUM, 2_243_171_520, 2_241_822_720, 4096, 2048, 16, 333, StableDiffusion3()),
    "klein-4b": Size(KLEIN_4B, 3_875_544_576, 3_875_536_896, 7680, 0, 128, 512, Flux2Klein()),
    "tiny-sd3": Size(TINY_SD3, 89_008, 84_736, 56, 32, 16, 6, StableDiffusion3()),
    "tiny-klein": Size(TINY_KLEIN, 69_216, 69_120, 48, 0, 16, 5, Flux2Klein()),
}
"""Those named tiny are there to test the program, not to be measured."""
FLOAT_ENDS = ("conv_in", "conv_out")


def float_layers(denoiser: Any) -> tuple[str, ...]:
    """Patterns of the layers that every quantized method leaves float, as `conf/quant` does."""
    families = (size.family for size in SIZES.values() if size.family is not None)
    return next((one.float_layers for one in families if isinstance(denoiser, one.denoiser_class)), FLOAT_ENDS)


def empty_denoiser(name: str) -> Any:
    """The denoiser on the meta device: its architecture without a byte of weights.

    Raises:
        RuntimeError: when the library makes another number of weights of these numbers.
    """
    size = SIZES[name]
    with torch.device("meta"):
        denoiser = size.denoiser_class.from_config(size.config)
    found = sum(parameter.numel() for parameter in denoiser.parameters())
    if found != size.parameters:
        raise RuntimeError(f"the denoiser of {name} must have {size.parameters} weights, diffusers makes {found}")
    return denoiser
