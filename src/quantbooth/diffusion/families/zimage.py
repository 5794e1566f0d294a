"""Z-Image: a transformer of one stream by flow matching, and a Qwen3 that reads prompts in its chat template.

    tokens [b, 512, 2560]   hidden states before the last layer, of the prompt in Qwen's chat template, zeros after them
    mask   [b, 512]         which of them are states

The network gets 1 - sigma, a list of latents and a list of prompts of any length, and returns x_0 - noise. Places of
patches begin after the prompt, so that a prompt's length is read from its mask at each call.

`sampler.guidance` is w of e_uncond + w (e_cond - e_uncond): the pipeline's `guidance_scale` plus 1. The base is
tuned, not Z-Image Turbo, which plain tuning would take its few steps from; their files do not tell them apart.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import ZImagePipeline, ZImageTransformer2DModel
from diffusers.models.transformers.transformer_z_image import ZImageTransformerBlock
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen3Model

from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.families.flow import T
from quantbooth.diffusion.families.folder_config import CONFIG, require_numbers, text_configs, whole
from quantbooth.diffusion.families.packed import FACTOR, PackedFlow
from quantbooth.diffusion.families.templates import chat_template, hidden_states, require_room_in
from quantbooth.diffusion.flow_schedule import timestep_of
from quantbooth.diffusion.model import Shape, TextEncoder

__all__ = ["ZImage"]

MASK = "mask"
WORDS = 512
"""Tokens of a prompt in its template."""
LAYER = -2


@dataclass(frozen=True)
class ZImage(PackedFlow):
    """The family of `ZImagePipeline`."""

    denoiser_class = ZImageTransformer2DModel
    text_classes: ClassVar[tuple[tuple[Any, Any], ...]] = ((Qwen3Model, Qwen2Tokenizer),)
    large_texts = (Qwen3Model,)
    pipeline_class: ClassVar[Any] = ZImagePipeline
    float_layers = ("all_x_embedder.*", "cap_embedder.*", "t_embedder.*", "all_final_layer.*")
    rowless_layers = ("all_x_embedder.*", "cap_embedder.*", "t_embedder.*")
    same_shapes = False
    call_names = ("t", "t")
    block_classes: ClassVar[tuple[type, ...]] = (ZImageTransformerBlock,)
    denoiser_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **{"all_patch_size": ([2], (2,)), "all_f_patch_size": ([1], (1,)), "siglip_feat_dim": (None,)},
    }

    def predict(
        self,
        denoiser: Any,
        x_t: Float[Tensor, "b c h w"],
        t: Float[Tensor, "..."] | Int[Tensor, "..."],
        conditioning: Conditioning,
    ) -> Float[Tensor, "b c h w"]:
        """Return -transformer(each of x_t, 1 - sigma, each prompt)."""
        lengths = conditioning.extra[MASK].sum(1).tolist()
        prompts = [row[:length] for row, length in zip(conditioning.tokens, lengths, strict=True)]
        time = self.network_time(t, len(x_t)).to(x_t.device)
        return -torch.stack(denoiser([*x_t.unsqueeze(2)], time, prompts).sample).squeeze(2)

    def network_time(self, t: Tensor, rows: int) -> Tensor:
        return (1 - (t.float() + 1) / T).expand(rows)

    def training_timestep(self, network_time: Tensor) -> Tensor:
        return timestep_of(((1 - network_time) * T).round(decimals=2))

    def latent_shape(self, denoiser: Any) -> tuple[int, int, int]:
        return denoiser.config.in_channels, self.side // FACTOR, self.side // FACTOR

    # ---- text

    def require_whole(self, tokenizers: Sequence[Any], prompts: Iterable[str]) -> None:
        (tokenizer,) = tokenizers
        require_room_in(chat_template(tokenizer, thinking=True), tokenizer, prompts, WORDS)

    def encode_prompts(self, encoders: Sequence[TextEncoder], prompts: Sequence[str], side: int) -> Conditioning:
        """Return the hidden states of each prompt in Qwen's chat template, which lets it think."""
        (encoder,) = encoders
        self.require_whole([encoder.tokenizer], prompts)
        texts = [*map(chat_template(encoder.tokenizer, thinking=True), prompts)]
        tokens, mask = hidden_states(encoder, texts, LAYER, 0, WORDS)
        return Conditioning(tokens, {MASK: mask})

    # ---- files

    def examine(self, folder: Path) -> Shape:
        transformer, vae, factor = self.parts_config(folder)
        text_file, text, *_ = text_configs(folder, "text_encoder", "tokenizer")
        wanted = {
            "in_channels": (vae["latent_channels"], "latent_channels of vae/"),
            "cap_feat_dim": (whole(text_file, text, "hidden_size"), "hidden_size of text_encoder/"),
        }
        require_numbers(folder / self.component / CONFIG, transformer, wanted)
        return self.shape(folder, vae["latent_channels"], factor)
