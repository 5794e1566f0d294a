"""Stable Diffusion 1.x, 2.x and the toy base: a unet conditioned by the last hidden states of one CLIP text encoder.

Rombach et al. 2022, arXiv 2112.10752.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from diffusers import StableDiffusionPipeline
from jaxtyping import Float, Int
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.diffusers_folder import read_json
from quantbooth.diffusion.families.unet import UnetFamily
from quantbooth.diffusion.model import Shape, TextEncoder
from quantbooth.runtime.errors import UserError

__all__ = ["StableDiffusion"]

OLD_SIDE = 64


@dataclass(frozen=True)
class StableDiffusion(UnetFamily):
    """The family of `StableDiffusionPipeline`."""

    text_classes: ClassVar[tuple[tuple[Any, Any], ...]] = ((CLIPTextModel, CLIPTokenizer),)
    pipeline_class: ClassVar[Any] = StableDiffusionPipeline
    architectures: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "modelspec.architecture": ("stable-diffusion-v1", "stable-diffusion-v2"),
        "ss_base_model_version": ("sd_v1", "sd_v2", "sd_1", "sd_2"),
    }
    denoiser_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {"addition_embed_type": (None,)}

    def sampler_config(self, scheduler_config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration as `StableDiffusionPipeline` sets it, whatever the base says."""
        return {**scheduler_config, "clip_sample": False, "steps_offset": 1}

    def examine(self, folder: Path) -> Shape:
        """Return what the files say; a small `sample_size` of before diffusers 0.9 is read as 64 by its pipeline."""
        found, release = super().examine(folder), read_json(folder / "unet" / "config.json").get("_diffusers_version")
        if found.latents[-1] < OLD_SIDE and re.match(r"0\.[0-8]\.", str(release)):
            raise UserError(
                f"{folder}/unet/config.json: sample_size = {found.latents[-1]} of diffusers {release} is read as "
                f"{OLD_SIDE} by its pipeline; write {OLD_SIDE}, or a newer _diffusers_version"
            )
        return found

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
