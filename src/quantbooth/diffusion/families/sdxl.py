"""Stable Diffusion XL: two text encoders side by side, a pooled embedding, and the size and crop of the picture.

    tokens [b, 77, 2048]   last but one hidden states of both encoders, side by side
    pooled [b, 1280]       projected embedding of the second encoder
    sizes  [b, 6]          height, width of the picture; top, left of its crop; height, width it is to have, in pixels

Podell et al. 2023, arXiv 2307.01952, section 2.2 (size and crop).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionXLPipeline
from jaxtyping import Float, Int
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.families.unet import UnetFamily
from quantbooth.diffusion.model import TextEncoder

__all__ = ["POOLED", "SIZES", "StableDiffusionXL"]

POOLED = "pooled"
SIZES = "sizes"


@dataclass(frozen=True)
class StableDiffusionXL(UnetFamily):
    """Knows `StableDiffusionXLPipeline`.

    Attributes:
        empty_is_zero: whether the empty prompt is zeros in the place of what the encoders say.
    """

    empty_is_zero: bool = True

    text_classes: ClassVar[tuple[tuple[Any, Any], ...]] = (
        (CLIPTextModel, CLIPTokenizer),
        (CLIPTextModelWithProjection, CLIPTokenizer),
    )
    pipeline_class: ClassVar[Any] = StableDiffusionXLPipeline

    @classmethod
    def from_index(cls, index: Mapping[str, Any]) -> "StableDiffusionXL":
        """Return the family with the folder's `force_zeros_for_empty_prompt`; diffusers' default where it is silent."""
        return cls(empty_is_zero=bool(index.get("force_zeros_for_empty_prompt", True)))

    def predict(
        self,
        denoiser: Any,
        x_t: Float[Tensor, "b c h w"],
        t: Float[Tensor, "..."] | Int[Tensor, "..."],
        conditioning: Conditioning,
    ) -> Float[Tensor, "b c h w"]:
        """Return unet(x_t, t, tokens, pooled, sizes)."""
        added = {"text_embeds": conditioning.extra[POOLED], "time_ids": conditioning.extra[SIZES]}
        return denoiser(x_t, t, encoder_hidden_states=conditioning.tokens, added_cond_kwargs=added).sample

    def encode_prompts(self, encoders: Sequence[TextEncoder], prompts: Sequence[str], side: int) -> Conditioning:
        """Return both encoders' states, for whole square pictures of that side, uncropped."""
        one, two = (encoder.network(encoder.ids(prompts), output_hidden_states=True) for encoder in encoders)
        hidden = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1)
        said = torch.tensor([not self.empty_is_zero or bool(prompt) for prompt in prompts], device=hidden.device)
        pooled = two.text_embeds * said[:, None]
        sizes = pooled.new_tensor([side, side, 0, 0, side, side]).repeat(len(pooled), 1)
        return Conditioning(hidden * said[:, None, None], {POOLED: pooled, SIZES: sizes})

    def pipeline(self, parts: Mapping[str, Any], scheduler_config: Mapping[str, Any]) -> StableDiffusionXLPipeline:
        scheduler = self.schedulers["ddim"].from_config(dict(scheduler_config))
        zeros = self.empty_is_zero
        return StableDiffusionXLPipeline(
            **parts, scheduler=scheduler, force_zeros_for_empty_prompt=zeros, add_watermarker=False
        )
