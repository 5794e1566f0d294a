"""Stable Diffusion 1.x, 2.x and the toy base: a unet conditioned by the last hidden states of one CLIP text encoder.

Rombach et al. 2022, arXiv 2112.10752.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from diffusers import StableDiffusionPipeline
from jaxtyping import Float, Int
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.families.unet import UnetFamily
from quantbooth.diffusion.model import TextEncoder

__all__ = ["StableDiffusion"]


@dataclass(frozen=True)
class StableDiffusion(UnetFamily):
    """The family of `StableDiffusionPipeline`."""

    text_classes: ClassVar[tuple[tuple[Any, Any], ...]] = ((CLIPTextModel, CLIPTokenizer),)
    pipeline_class: ClassVar[Any] = StableDiffusionPipeline
    denoiser_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {"addition_embed_type": (None,)}

    def sampler_config(self, scheduler_config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration as `StableDiffusionPipeline` sets it, whatever the base says."""
        return {**scheduler_config, "clip_sample": False, "steps_offset": 1}

    def predict(
        self,
        denoiser: Any,
        x_t: Float[Tensor, "b c h w"],
        t: Float[Tensor, "..."] | Int[Tensor, "..."],
        conditioning: Conditioning,
    ) -> Float[Tensor, "b c h w"]:
        """Return unet(x_t, t, tokens)."""
        return denoiser(x_t, t, encoder_hidden_states=conditioning.tokens).sample

    def encode_prompts(self, encoders: Sequence[TextEncoder], prompts: Sequence[str], side: int) -> Conditioning:
        """Return the last hidden states of the text encoder."""
        (encoder,) = encoders
        return Conditioning(encoder.network(encoder.ids(prompts))[0])

    def pipeline(self, parts: Mapping[str, Any], scheduler_config: Mapping[str, Any]) -> StableDiffusionPipeline:
        none = dict.fromkeys(("safety_checker", "feature_extractor"))
        scheduler = self.schedulers["ddim"].from_config(self.sampler_config(scheduler_config))
        return StableDiffusionPipeline(**parts, scheduler=scheduler, **none, requires_safety_checker=False)
