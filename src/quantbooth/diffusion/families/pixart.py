"""PixArt-Sigma: a transformer with cross-attention on a DDPM schedule, and a T5 that reads prompts.

    tokens [b, 300, 4096]   last hidden states of T5, of the prompt in lower case, as diffusers' pipeline reads it
    mask   [b, 300]         which of them are tokens of the prompt; cross-attention reads these alone

The network returns noise and variance as 2 c channels; the noise, the first half, is its prediction. Chen et al. 2024,
arXiv 2403.04692.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, PixArtSigmaPipeline, PixArtTransformer2DModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import PatchEmbed
from transformers import T5EncoderModel, T5Tokenizer

from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.families.ddpm import DdpmFamily
from quantbooth.diffusion.families.folder_config import CONFIG, latent_shape, require_numbers, text_configs, whole
from quantbooth.diffusion.families.masked_prompts import MaskedPromptFamily, last_states, lower
from quantbooth.diffusion.families.transformer import TransformerFamily
from quantbooth.diffusion.model import Shape, TextEncoder
from quantbooth.diffusion.scheduler_config import DDPM_KINDS, read_scheduler_config
from quantbooth.runtime.errors import UserError

__all__ = ["PixArtSigma"]

WORDS = 300
"""Tokens of a prompt."""
NONE = (None,)
SIZED = 128
"""The `sample_size` at which diffusers' transformer takes sizes of pictures, where its file does not say."""


@dataclass(frozen=True)
class PixArtSigma(DdpmFamily, MaskedPromptFamily):
    """The family of `PixArtSigmaPipeline`."""

    denoiser_class = PixArtTransformer2DModel
    text_classes: ClassVar[tuple[tuple[Any, Any], ...]] = ((T5EncoderModel, T5Tokenizer),)
    text_lengths = (WORDS,)
    large_texts = (T5EncoderModel,)
    pipeline_class: ClassVar[Any] = PixArtSigmaPipeline
    call_options: ClassVar[Mapping[str, Any]] = {"clean_caption": False}
    autoencoders: ClassVar[Mapping[str, Any]] = {"AutoencoderKL": AutoencoderKL}
    float_layers = ("pos_embed.*", "adaln_single.*", "caption_projection.*", "proj_out")
    block_classes: ClassVar[tuple[type, ...]] = (BasicTransformerBlock,)
    scheduler_kinds: ClassVar[Collection[str]] = DDPM_KINDS
    denoiser_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **{"norm_type": ("ada_norm_single",), "attention_type": ("default", None)},
        "use_additional_conditions": (False, None),
    }
    former_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "_class_name": (PixArtTransformer2DModel.__name__, "Transformer2DModel"),
        **dict.fromkeys(("double_self_attention", "only_cross_attention", "use_linear_projection"), (False,)),
        "num_vector_embeds": NONE,
    }
    autoencoder_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **TransformerFamily.autoencoder_values,
        **{"latents_mean": NONE, "latents_std": NONE, "shift_factor": (None, 0)},
    }

    def new_denoiser(self, config: Mapping[str, Any]) -> Any:
        """Return the transformer; its table of places, which is in no file, has numbers on the meta device too."""
        denoiser = super().new_denoiser(config)
        places, said = denoiser.pos_embed, denoiser.config
        if places.pos_embed.is_meta:
            size = {"patch_size": said.patch_size, "interpolation_scale": places.interpolation_scale}
            with torch.device("cpu"):
                made = PatchEmbed(said.sample_size, said.sample_size, embed_dim=denoiser.inner_dim, **size)
            places.register_buffer("pos_embed", made.pos_embed, persistent=False)
        return denoiser

    # ---- text

    def require_whole(self, tokenizers: Sequence[Any], prompts: Iterable[str]) -> None:
        super().require_whole(tokenizers, map(lower, prompts))

    def encode_prompts(self, encoders: Sequence[TextEncoder], prompts: Sequence[str], side: int) -> Conditioning:
        """Return the last hidden states of T5, and which tokens are of the prompts."""
        (t5,) = encoders
        return last_states(t5, [lower(prompt) for prompt in prompts], WORDS)

    # ---- files

    def examine(self, folder: Path) -> Shape:
        transformer, vae, factor = self.parts_config(folder)
        file, channels = folder / self.component / CONFIG, vae["latent_channels"]
        text_file, text, *_ = text_configs(folder, "text_encoder", "tokenizer")
        wanted = {
            "in_channels": (channels, "latent_channels of vae/"),
            "out_channels": (2 * channels, "noise and variance of latent_channels of vae/"),
            "caption_channels": (whole(text_file, text, "d_model"), "d_model of text_encoder/"),
        }
        require_numbers(file, transformer, wanted)
        latents = latent_shape(transformer, self.component)
        if latents[-1] % (patch := whole(file, transformer, "patch_size")):
            raise UserError(f"{file}: sample_size must be a multiple of patch_size = {patch}, found {latents[-1]}")
        if transformer["use_additional_conditions"] is None and latents[-1] == SIZED:
            raise UserError(
                f"{file}: use_additional_conditions must be false, as PixArt-Sigma has it; without the key diffusers "
                f"takes true at sample_size = {SIZED}, as PixArt-Alpha has it"
            )
        return Shape(latents, latents[-1] * factor, self.schedule(read_scheduler_config(folder)).timesteps)

    def pipeline(self, parts: Mapping[str, Any], scheduler_config: Mapping[str, Any]) -> PixArtSigmaPipeline:
        scheduler = self.schedulers["ddim"].from_config(self.sampler_config(scheduler_config))
        return PixArtSigmaPipeline(**parts, scheduler=scheduler)
