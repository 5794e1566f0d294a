"""Stable Diffusion 3 and 3.5: a multimodal transformer by flow matching, two CLIP text encoders and a T5.

    tokens [b, 77 + 256, 4096]   penultimate states of both CLIPs side by side, padded by zeros; after them T5's states
    pooled [b, 2048]             projected embeddings of both CLIPs

Without T5 (`text_encoder_3` is null) diffusers' pipeline gives 256 tokens of zeros instead. Equal tokens without places
stay equal in all blocks, so one of them is computed, and attention counts it 256 times.

    tokens [b, 77, 2048]         states of both CLIPs side by side

The network gets t = 1000 sigma. Esser et al. 2024, arXiv 2403.03206.
"""

from abc import abstractmethod
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
from quantbooth.diffusion.families.folder_config import (
    CONFIG,
    clip_config,
    latent_shape,
    require_numbers,
    text_configs,
    whole,
)
from quantbooth.diffusion.families.joint_attention import counted, mask_attention_
from quantbooth.diffusion.model import Family, Shape, TextEncoder
from quantbooth.runtime.errors import UserError

__all__ = ["StableDiffusion3", "StableDiffusion3WithoutT5"]

POOLED = "pooled"
SHIFT_RANGE = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.16}
"""Keys of the scheduler's configuration that decide mu, with the pipeline's defaults."""
T5_TOKENS = 256
"""Of a prompt that diffusers' pipeline reads by default."""
CLIP: tuple[Any, Any] = (CLIPTextModelWithProjection, CLIPTokenizer)
THIRD = ("text_encoder_3", "tokenizer_3")


class _StableDiffusion3(FlowFamily):
    """Base class of both: transformer, latents, sampler and files."""

    denoiser_class = SD3Transformer2DModel
    pipeline_class: ClassVar[Any] = StableDiffusion3Pipeline
    float_layers = ("pos_embed.*", "context_embedder", "time_text_embed.*", "norm_out.*", "proj_out")
    block_classes: ClassVar[tuple[type, ...]] = (JointTransformerBlock,)

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

    def call(
        self, denoiser: Any, x_t: Tensor, t: Tensor, tokens: Float[Tensor, "b n d"], pooled: Tensor, **options: Any
    ) -> Float[Tensor, "b c h w"]:
        """Return transformer(x_t, 1000 sigma, tokens, pooled)."""
        return denoiser(
            hidden_states=x_t,
            timestep=self.network_time(t, len(x_t)).to(x_t.device),
            encoder_hidden_states=tokens,
            pooled_projections=pooled,
            **options,
        ).sample

    def examine(self, folder: Path) -> Shape:
        transformer, vae, factor = self.parts_config(folder)
        latents, timesteps = latent_shape(transformer, self.component), self.timesteps(folder)
        clips = [clip_config(folder, *names) for names in zip(text_encoder_names(2), tokenizer_names(2), strict=True)]
        file = folder / self.component / CONFIG
        wanted = {
            "in_channels": (vae["latent_channels"], "latent_channels of vae/"),
            "out_channels": (vae["latent_channels"], "latent_channels of vae/"),
            "pooled_projection_dim": (sum(clip["projection_dim"] for clip in clips), "the projections of both CLIPs"),
        }
        require_numbers(file, transformer, wanted)
        self.require_width(folder, transformer["joint_attention_dim"], sum(clip["hidden_size"] for clip in clips))
        if transformer["patch_size"] != 2 or latents[1] % 2 or latents[1] // 2 > transformer["pos_embed_max_size"]:
            raise UserError(
                f"{file}: sample_size must be even and at most 2 x pos_embed_max_size = "
                f"{2 * transformer['pos_embed_max_size']} with patch_size = 2, found {latents[1]} and "
                f"{transformer['patch_size']}"
            )
        return Shape(latents, latents[-1] * factor, timesteps)

    @abstractmethod
    def require_width(self, folder: Path, found: int, clips: int) -> None:
        """Check `joint_attention_dim` of the transformer, given the width of both CLIPs.

        Raises:
            UserError: when it does not fit.
        """

    def pipeline(self, parts: Mapping[str, Any], scheduler_config: Mapping[str, Any]) -> StableDiffusion3Pipeline:
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(dict(scheduler_config))
        return StableDiffusion3Pipeline(**parts, **dict.fromkeys(self.absent_parts), scheduler=scheduler)


@dataclass(frozen=True)
class StableDiffusion3(_StableDiffusion3):
    """The family of `StableDiffusion3Pipeline`."""

    text_classes: ClassVar[tuple[tuple[Any, Any], ...]] = (CLIP, CLIP, (T5EncoderModel, T5Tokenizer))
    large_texts = (T5EncoderModel,)
    text_lengths = (None, None, T5_TOKENS)

    @classmethod
    def from_folder(cls, folder: Path, index: Mapping[str, Any]) -> Family:
        """Return the family without T5 where both its parts are null."""
        return StableDiffusion3WithoutT5() if all(index.get(part) == [None, None] for part in THIRD) else cls()

    def predict(
        self,
        denoiser: Any,
        x_t: Float[Tensor, "b c h w"],
        t: Float[Tensor, "..."] | Int[Tensor, "..."],
        conditioning: Conditioning,
    ) -> Float[Tensor, "b c h w"]:
        return self.call(denoiser, x_t, t, conditioning.tokens, conditioning.extra[POOLED])

    def encode_prompts(self, encoders: Sequence[TextEncoder], prompts: Sequence[str], side: int) -> Conditioning:
        """Return the states of all encoders, and the pooled embeddings of the CLIPs."""
        *clips, t5 = encoders
        states, pooled = _encoded(clips, prompts)
        words = t5.network(t5.ids(prompts, T5_TOKENS))[0]
        padded = pad(states, (0, words.shape[-1] - states.shape[-1]))
        return Conditioning(torch.cat([padded, words.to(padded)], dim=1), {POOLED: pooled})

    def require_width(self, folder: Path, found: int, clips: int) -> None:
        file, t5, *_ = text_configs(folder, *THIRD)
        wanted = {"joint_attention_dim": (whole(file, t5, "d_model"), "d_model of text_encoder_3/")}
        require_numbers(folder / self.component / CONFIG, {"joint_attention_dim": found}, wanted)


@dataclass(frozen=True)
class StableDiffusion3WithoutT5(_StableDiffusion3):
    """The family of `StableDiffusion3Pipeline` whose `text_encoder_3` and `tokenizer_3` are null."""

    text_classes: ClassVar[tuple[tuple[Any, Any], ...]] = (CLIP, CLIP)
    absent_parts = THIRD

    def predict(
        self,
        denoiser: Any,
        x_t: Float[Tensor, "b c h w"],
        t: Float[Tensor, "..."] | Int[Tensor, "..."],
        conditioning: Conditioning,
    ) -> Float[Tensor, "b c h w"]:
        """Return transformer(x_t, 1000 sigma, [tokens, 0], pooled), the last token counted 256 times."""
        mask_attention_(denoiser)
        states = conditioning.tokens
        tokens = pad(states, (0, denoiser.config.joint_attention_dim - states.shape[-1], 0, 1))
        patches = x_t.shape[-2] * x_t.shape[-1] // denoiser.config.patch_size**2
        mask = counted(patches + tokens.shape[1], T5_TOKENS).to(x_t.device)
        options = {"joint_attention_kwargs": {"attention_mask": mask}}
        return self.call(denoiser, x_t, t, tokens, conditioning.extra[POOLED], **options)

    def encode_prompts(self, encoders: Sequence[TextEncoder], prompts: Sequence[str], side: int) -> Conditioning:
        """Return the states and the pooled embeddings of both CLIPs."""
        states, pooled = _encoded(encoders, prompts)
        return Conditioning(states, {POOLED: pooled})

    def require_width(self, folder: Path, found: int, clips: int) -> None:
        if found < clips:
            raise UserError(
                f"{folder / self.component / CONFIG}: joint_attention_dim must be {clips} or more, the width of both "
                f"CLIPs, found {found}"
            )


def _encoded(clips: Sequence[TextEncoder], prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return the penultimate states and the projected embeddings of the CLIPs, side by side."""
    found = [clip.network(clip.ids(prompts), output_hidden_states=True) for clip in clips]
    return torch.cat([one.hidden_states[-2] for one in found], -1), torch.cat([one.text_embeds for one in found], -1)
