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

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock
from jaxtyping import Float, Int
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.families.folder_config import CONFIG, clip_config, require_numbers, text_configs, whole
from quantbooth.diffusion.families.packed import PackedFlow, packed, places, unpacked
from quantbooth.diffusion.model import Shape, TextEncoder

__all__ = ["GUIDANCE", "Flux1"]

POOLED = "pooled"
GUIDANCE = 3.5
WORDS = 512
"""Tokens of a prompt that T5 reads."""


@dataclass(frozen=True)
class Flux1(PackedFlow):
    """The family of `FluxPipeline`."""

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

    def predict(
        self,
        denoiser: Any,
        x_t: Float[Tensor, "b c h w"],
        t: Float[Tensor, "..."] | Int[Tensor, "..."],
        conditioning: Conditioning,
    ) -> Float[Tensor, "b c h w"]:
        """Return transformer(patches of x_t, sigma, tokens, pooled, guidance, places)."""
        tokens = conditioning.tokens
        found = denoiser(
            hidden_states=packed(x_t),
            timestep=self.network_time(t, len(x_t)).to(x_t.device),
            guidance=torch.full((len(x_t),), GUIDANCE, device=x_t.device),
            encoder_hidden_states=tokens,
            pooled_projections=conditioning.extra[POOLED],
            img_ids=places(x_t),
            txt_ids=torch.zeros(tokens.shape[1], 3, device=x_t.device),
        ).sample
        return unpacked(found, x_t)

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
            "in_channels": (4 * vae["latent_channels"], "4 x latent_channels of vae/"),
            "joint_attention_dim": (whole(text_file, text, "d_model"), "d_model of text_encoder_2/"),
            "pooled_projection_dim": (clip["hidden_size"], "hidden_size of text_encoder/"),
        }
        require_numbers(folder / self.component / CONFIG, transformer, wanted)
        return self.shape(folder, vae["latent_channels"], factor)
