"""FLUX.1 dev: a transformer of double and single blocks by flow matching, a pooled CLIP embedding and a T5.

    tokens [b, 512, 4096]   last hidden states of T5
    pooled [b, 768]         CLIP's embedding of the prompt's end

The network gets sigma = t / 1000, latents as a row of 2 x 2 patches, the places of patches and words, and the weight of
guidance, which was distilled into it: 3.5, the default of diffusers' pipeline, in training and in sampling. So
samplers have no unconditional prediction (`sampler.guidance=1`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.diffusers_folder import part_of, read_json
from quantbooth.diffusion.families.flow import FlowFamily
from quantbooth.diffusion.families.folder_config import CONFIG, clip_config, require_numbers, text_configs, whole
from quantbooth.diffusion.model import Shape, TextEncoder
from quantbooth.runtime.errors import UserError

__all__ = ["GUIDANCE", "Flux1"]

POOLED = "pooled"
GUIDANCE = 3.5
WORDS = 512
"""Tokens of a prompt that T5 reads."""
PATCH = 2
SHIFT_RANGE = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
"""Keys of the scheduler's configuration that decide mu, with the pipeline's defaults."""


@dataclass(frozen=True)
class Flux1(FlowFamily):
    """The family of `FluxPipeline`.

    Attributes:
        side: of pictures in pixels, the `sample_size` of its autoencoder.
    """

    side: int = 1024

    denoiser_class = FluxTransformer2DModel
    text_classes: ClassVar[tuple[tuple[Any, Any], ...]] = (
        (CLIPTextModel, CLIPTokenizer),
        (T5EncoderModel, T5Tokenizer),
    )
    text_lengths = (None, WORDS)
    large_texts = (T5EncoderModel,)
    pipeline_class: ClassVar[Any] = FluxPipeline
    float_layers = ("x_embedder", "context_embedder", "time_text_embed.*", "norm_out.*", "proj_out")
    block_classes: ClassVar[tuple[type, ...]] = (FluxTransformerBlock, FluxSingleTransformerBlock)
    network_timesteps = 1
    guided = False
    denoiser_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {"guidance_embeds": (True,), "patch_size": (1,)}

    @classmethod
    def from_folder(cls, folder: Path, index: Mapping[str, Any]) -> "Flux1":
        """Return the family with the side that the autoencoder's configuration says, by default 1024."""
        file = part_of(folder, "vae") / CONFIG
        return cls(whole(file, {"sample_size": cls.side, **read_json(file)}, "sample_size"))

    def predict(
        self,
        denoiser: Any,
        x_t: Float[Tensor, "b c h w"],
        t: Float[Tensor, "..."] | Int[Tensor, "..."],
        conditioning: Conditioning,
    ) -> Float[Tensor, "b c h w"]:
        """Return transformer(patches of x_t, sigma, tokens, pooled, guidance, places)."""
        patches, tokens = pixel_unshuffle(x_t, PATCH), conditioning.tokens
        height, width = patches.shape[-2:]
        found = denoiser(
            hidden_states=patches.flatten(2).transpose(1, 2),
            timestep=self.network_time(t, len(x_t)).to(x_t.device),
            guidance=torch.full((len(x_t),), GUIDANCE, device=x_t.device),
            encoder_hidden_states=tokens,
            pooled_projections=conditioning.extra[POOLED],
            img_ids=torch.cartesian_prod(*map(torch.arange, (1, height, width))).to(x_t.device),
            txt_ids=torch.zeros(tokens.shape[1], 3, device=x_t.device),
        ).sample
        return pixel_shuffle(found.transpose(1, 2).unflatten(2, (height, width)), PATCH)

    def latent_shape(self, denoiser: Any) -> tuple[int, int, int]:
        return denoiser.config.in_channels // PATCH**2, self.side // 8, self.side // 8

    def scheduler_options(
        self, scheduler_config: Mapping[str, Any], steps: int, latent_shape: tuple[int, int, int]
    ) -> dict[str, Any]:
        """Return mu by the number of patches, and evenly spaced sigmas from 1 to 1 / steps."""
        range_ = (scheduler_config.get(key, default) for key, default in SHIFT_RANGE.items())
        mu = calculate_shift(latent_shape[1] * latent_shape[2] // PATCH**2, *range_)
        return {"mu": mu, "sigmas": np.linspace(1.0, 1 / steps, steps)}

    def encode_prompts(self, encoders: Sequence[TextEncoder], prompts: Sequence[str], side: int) -> Conditioning:
        """Return the last hidden states of T5 and the pooled embedding of CLIP."""
        clip, t5 = encoders
        tokens = t5.network(t5.ids(prompts, WORDS))[0].float()
        return Conditioning(tokens, {POOLED: clip.network(clip.ids(prompts)).pooler_output})

    # ---- files

    def examine(self, folder: Path) -> Shape:
        transformer, vae, factor = self.parts_config(folder)
        clip = clip_config(folder, "text_encoder", "tokenizer")
        text_file, text, *_ = text_configs(folder, "text_encoder_2", "tokenizer_2")
        wanted = {
            "in_channels": (vae["latent_channels"] * PATCH**2, "4 x latent_channels of vae/"),
            "joint_attention_dim": (whole(text_file, text, "d_model"), "d_model of text_encoder_2/"),
            "pooled_projection_dim": (clip["hidden_size"], "hidden_size of text_encoder/"),
        }
        require_numbers(folder / self.component / CONFIG, transformer, wanted)
        if factor != 8 or self.side % (PATCH * factor):
            raise UserError(
                f"{folder}/vae/{CONFIG}: sample_size must be a multiple of 16 with 4 block_out_channels, found "
                f"{self.side}, and a downsampling by {factor}"
            )
        latents = (vae["latent_channels"], self.side // factor, self.side // factor)
        return Shape(latents, self.side, self.timesteps(folder))

    def pipeline(self, parts: Mapping[str, Any], scheduler_config: Mapping[str, Any]) -> FluxPipeline:
        return FluxPipeline(**parts, scheduler=FlowMatchEulerDiscreteScheduler.from_config(dict(scheduler_config)))
