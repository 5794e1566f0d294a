"""Stable Diffusion XL: two text encoders, a pooled embedding, and size and crop micro-conditioning.

    tokens [b, 77, 2048]   penultimate hidden states of both encoders, concatenated
    pooled [b, 1280]       projected embedding of the second encoder
    sizes  [b, 6]          original height, width; crop top, left; target height, width, in pixels

Podell et al. 2023, arXiv 2307.01952, section 2.2 (size and crop).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
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
    """The family of `StableDiffusionXLPipeline`.

    Attributes:
        empty_is_zero: whether the empty prompt is encoded as zeros instead of by the encoders.
    """

    empty_is_zero: bool = True

    text_classes: ClassVar[tuple[tuple[Any, Any], ...]] = (
        (CLIPTextModel, CLIPTokenizer),
        (CLIPTextModelWithProjection, CLIPTokenizer),
    )
    pipeline_class: ClassVar[Any] = StableDiffusionXLPipeline
    architectures: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "modelspec.architecture": ("stable-diffusion-xl",),
        "ss_base_model_version": ("sdxl",),
    }
    denoiser_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {"addition_embed_type": ("text_time",)}

    @classmethod
    def from_folder(cls, folder: Path, index: Mapping[str, Any]) -> "StableDiffusionXL":
        """Return the family with the folder's `force_zeros_for_empty_prompt`, by default true as in diffusers."""
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
        """Return the states of both encoders, with the micro-conditioning of uncropped square pictures."""
        one, two = (encoder.network(encoder.ids(prompts), output_hidden_states=True) for encoder in encoders)
        hidden = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1)
        said = torch.tensor([not self.empty_is_zero or bool(prompt) for prompt in prompts], device=hidden.device)
        pooled = two.text_embeds * said[:, None]
        sizes = pooled.new_tensor([side, side, 0, 0, side, side]).repeat(len(pooled), 1)
        return Conditioning(hidden * said[:, None, None], {POOLED: pooled, SIZES: sizes})

    def pipeline(self, parts: Mapping[str, Any], scheduler_config: Mapping[str, Any]) -> StableDiffusionXLPipeline:
        scheduler = self.schedulers["ddim"].from_config(self.sampler_config(scheduler_config))
        zeros = self.empty_is_zero
        return StableDiffusionXLPipeline(
            **parts, scheduler=scheduler, force_zeros_for_empty_prompt=zeros, add_watermarker=False
        )
