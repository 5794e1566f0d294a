"""Chroma: FLUX.1's blocks without its pooled embedding and weight of guidance, and a T5 that reads prompts.

    tokens [b, 512, 4096]   last hidden states of T5
    mask   [b, 512]         the tokens of the prompt and one more, which is padding

The network gets sigma = t / 1000, latents as a row of 2 x 2 patches, places, and the mask with a 1 for each patch. In
diffusers' pipeline the mask is a number that attention adds to the scores between unmasked places: padding has e^0
where others have e^1, and is not left out (huggingface/diffusers#13619). Exported folders are drawn and tuned so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import ChromaPipeline, ChromaTransformer2DModel
from diffusers.models.transformers.transformer_chroma import ChromaSingleTransformerBlock, ChromaTransformerBlock
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import T5EncoderModel, T5Tokenizer

from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.families.folder_config import CONFIG, require_numbers, text_configs, whole
from quantbooth.diffusion.families.masked_prompts import MASK, last_states
from quantbooth.diffusion.families.packed import PackedFlow, packed, places, unpacked
from quantbooth.diffusion.model import Shape, TextEncoder, recomputed

__all__ = ["Chroma"]

WORDS = 512
"""Tokens of a prompt that T5 reads."""


@dataclass(frozen=True)
class Chroma(PackedFlow):
    """The family of `ChromaPipeline`."""

    denoiser_class = ChromaTransformer2DModel
    text_classes: ClassVar[tuple[tuple[Any, Any], ...]] = ((T5EncoderModel, T5Tokenizer),)
    text_lengths = (WORDS,)
    large_texts = (T5EncoderModel,)
    pipeline_class: ClassVar[Any] = ChromaPipeline
    float_layers = ("x_embedder", "context_embedder", "distilled_guidance_layer.*", "proj_out")
    block_classes: ClassVar[tuple[type, ...]] = (ChromaTransformerBlock, ChromaSingleTransformerBlock)
    network_timesteps = 1
    recordable = False
    denoiser_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {"patch_size": (1,)}

    def predict(
        self,
        denoiser: Any,
        x_t: Float[Tensor, "b c h w"],
        t: Float[Tensor, "..."] | Int[Tensor, "..."],
        conditioning: Conditioning,
    ) -> Float[Tensor, "b c h w"]:
        """Return transformer(patches of x_t, sigma, tokens, mask, places)."""
        patches, tokens = packed(x_t), conditioning.tokens
        found = denoiser(
            hidden_states=patches,
            timestep=self.network_time(t, len(x_t)).to(x_t.device),
            encoder_hidden_states=tokens,
            attention_mask=pad(conditioning.extra[MASK].to(x_t.dtype), (0, patches.shape[1]), value=1),
            img_ids=places(x_t),
            txt_ids=torch.zeros(tokens.shape[1], 3, device=x_t.device),
        ).sample
        return unpacked(found, x_t)

    def new_denoiser(self, config: Mapping[str, Any]) -> Any:
        """Return the transformer; its table of modulations, which is in no file, has numbers on the meta device too."""
        denoiser = super().new_denoiser(config)
        if (table := denoiser.time_text_embed).mod_proj.is_meta:
            with torch.device("cpu"):
                denoiser.time_text_embed = type(table)(table.time_proj.num_channels, len(table.mod_proj))
        return denoiser

    def enable_gradient_checkpointing_(self, denoiser: Any) -> None:
        denoiser.enable_gradient_checkpointing(_Masked())

    def encode_prompts(self, encoders: Sequence[TextEncoder], prompts: Sequence[str], side: int) -> Conditioning:
        """Return the last hidden states of T5, and which tokens are of the prompts, or the first after them."""
        (t5,) = encoders
        found = last_states(t5, prompts, WORDS)
        return Conditioning(found.tokens, {MASK: pad(found.extra[MASK], (1, -1), value=True)})

    # ---- files

    def examine(self, folder: Path) -> Shape:
        transformer, vae, factor = self.parts_config(folder)
        text_file, text, *_ = text_configs(folder, "text_encoder", "tokenizer")
        wanted = {
            "in_channels": (4 * vae["latent_channels"], "4 x latent_channels of vae/"),
            "joint_attention_dim": (whole(text_file, text, "d_model"), "d_model of text_encoder/"),
        }
        require_numbers(folder / self.component / CONFIG, transformer, wanted)
        return self.shape(folder, vae["latent_channels"], factor)


class _Masked:
    """Recomputes blocks: diffusers then calls single blocks without the mask, which it gives to the double ones."""

    def __init__(self) -> None:
        self.mask: Tensor | None = None

    def __call__(self, block: nn.Module, *inputs: Any) -> Any:
        if isinstance(block, ChromaTransformerBlock):
            self.mask = inputs[4]
            return recomputed(block, *inputs)
        return recomputed(block, *inputs, self.mask)
