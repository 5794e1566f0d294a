"""Stable Diffusion 3 and 3.5: a multimodal transformer by flow matching, two CLIP text encoders and a T5.

    tokens [b, 77 + 256, 4096]   penultimate states of both CLIPs side by side, padded by zeros; after them T5's states
    pooled [b, 2048]             projected embeddings of both CLIPs

The network gets t = 1000 sigma. Esser et al. 2024, arXiv 2403.03206.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.models.attention import JointTransformerBlock
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.diffusers_folder import text_encoder_names, tokenizer_names
from quantbooth.diffusion.families.flow import FlowFamily
from quantbooth.diffusion.families.folder_config import CONFIG, clip_config, latent_shape, text_configs, whole
from quantbooth.diffusion.model import Shape, TextEncoder
from quantbooth.runtime.errors import UserError

__all__ = ["StableDiffusion3"]

POOLED = "pooled"
SHIFT_RANGE = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.16}
"""Keys of the scheduler's configuration that decide mu, with the pipeline's defaults."""
T5_TOKENS = 256
"""Of a prompt that diffusers' pipeline reads by default."""


@dataclass(frozen=True)
class StableDiffusion3(FlowFamily):
    """The family of `StableDiffusion3Pipeline`."""

    denoiser_class = SD3Transformer2DModel
    text_classes: ClassVar[tuple[tuple[Any, Any], ...]] = (
        (CLIPTextModelWithProjection, CLIPTokenizer),
        (CLIPTextModelWithProjection, CLIPTokenizer),
        (T5EncoderModel, T5Tokenizer),
    )
    large_texts = (T5EncoderModel,)
    text_lengths = (None, None, T5_TOKENS)
    pipeline_class: ClassVar[Any] = StableDiffusion3Pipeline
    float_layers = ("pos_embed.*", "context_embedder", "time_text_embed.*", "norm_out.*", "proj_out")
    block_classes: ClassVar[tuple[type, ...]] = (JointTransformerBlock,)

    def predict(
        self,
        denoiser: Any,
        x_t: Float[Tensor, "b c h w"],
        t: Float[Tensor, "..."] | Int[Tensor, "..."],
        conditioning: Conditioning,
    ) -> Float[Tensor, "b c h w"]:
        """Return transformer(x_t, 1000 sigma, tokens, pooled)."""
        return denoiser(
            hidden_states=x_t,
            timestep=self.network_time(t, len(x_t)).to(x_t.device),
            encoder_hidden_states=conditioning.tokens,
            pooled_projections=conditioning.extra[POOLED],
        ).sample

    def latent_shape(self, denoiser: Any) -> tuple[int, int, int]:
        return latent_shape(denoiser.config, self.component)

    def scheduler_options(
        self, scheduler_config: Mapping[str, Any], steps: int, latent_shape: tuple[int, int, int]
    ) -> dict[str, Any]:
        """Return mu by the number of 2 x 2 patches where the base shifts by it; else its own shift is used."""
        if not scheduler_config.get("use_dynamic_shifting"):
            return {}
        range_ = (scheduler_config.get(key, default) for key, default in SHIFT_RANGE.items())
        return {"mu": calculate_shift((latent_shape[1] // 2) * (latent_shape[2] // 2), *range_)}

    def encode_prompts(self, encoders: Sequence[TextEncoder], prompts: Sequence[str], side: int) -> Conditioning:
        """Return the states of all encoders, and the pooled embeddings of the CLIPs."""
        *clips, t5 = encoders
        found = [clip.network(clip.ids(prompts), output_hidden_states=True) for clip in clips]
        words = t5.network(t5.ids(prompts, T5_TOKENS))[0]
        states = torch.cat([one.hidden_states[-2] for one in found], dim=-1)
        padded = pad(states, (0, words.shape[-1] - states.shape[-1]))
        pooled = torch.cat([one.text_embeds for one in found], dim=-1)
        return Conditioning(torch.cat([padded, words.to(padded)], dim=1), {POOLED: pooled})

    def examine(self, folder: Path) -> Shape:
        transformer, vae, factor = self.parts_config(folder)
        latents, timesteps = latent_shape(transformer, self.component), self.timesteps(folder)
        clips = [clip_config(folder, *names) for names in zip(text_encoder_names(2), tokenizer_names(2), strict=True)]
        t5_file, t5, *_ = text_configs(folder, "text_encoder_3", "tokenizer_3")
        file = folder / self.component / CONFIG
        wanted = {
            "in_channels": (vae["latent_channels"], "latent_channels of vae/"),
            "out_channels": (vae["latent_channels"], "latent_channels of vae/"),
            "joint_attention_dim": (whole(t5_file, t5, "d_model"), "d_model of text_encoder_3/"),
            "pooled_projection_dim": (sum(clip["projection_dim"] for clip in clips), "the projections of both CLIPs"),
        }
        for key, (number, source) in wanted.items():
            if transformer[key] != number:
                raise UserError(f"{file}: {key} must be {number} as {source}, found {transformer[key]}")
        if transformer["patch_size"] != 2 or latents[1] % 2 or latents[1] // 2 > transformer["pos_embed_max_size"]:
            raise UserError(
                f"{file}: sample_size must be even and at most 2 x pos_embed_max_size = "
                f"{2 * transformer['pos_embed_max_size']} with patch_size = 2, found {latents[1]} and "
                f"{transformer['patch_size']}"
            )
        return Shape(latents, latents[-1] * factor, timesteps)

    def pipeline(self, parts: Mapping[str, Any], scheduler_config: Mapping[str, Any]) -> StableDiffusion3Pipeline:
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(dict(scheduler_config))
        return StableDiffusion3Pipeline(**parts, scheduler=scheduler)
