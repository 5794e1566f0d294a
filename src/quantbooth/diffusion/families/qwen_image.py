"""Qwen-Image: a transformer of double blocks by flow matching, and a Qwen2.5-VL that reads prompts in a template.

    tokens [b, 512, 3584]   last hidden states of the prompt and the template's end, zeros after them
    mask   [b, 512]         which of them are states; attention reads these alone

The network gets sigma = t / 1000 and latents as a row of 2 x 2 patches. Guidance keeps the length of each patch's
conditional prediction, as diffusers' pipeline does:

    e = e_uncond + w (e_cond - e_uncond)        e |e_cond| / |e|
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformerBlock
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.families.flow import PATCH
from quantbooth.diffusion.families.folder_config import CONFIG, require_numbers, text_configs, whole
from quantbooth.diffusion.families.packed import SIDE, PackedFlow, packed, unpacked
from quantbooth.diffusion.families.templates import hidden_states, require_room_in
from quantbooth.diffusion.model import Shape, TextEncoder

__all__ = ["QwenImage"]

MASK = "mask"
WORDS = 512
"""Tokens of a prompt and the end of its template that diffusers' pipeline reads by default."""


@dataclass(frozen=True)
class QwenImage(PackedFlow):
    """The family of `QwenImagePipeline`."""

    denoiser_class = QwenImageTransformer2DModel
    text_classes: ClassVar[tuple[tuple[Any, Any], ...]] = ((Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer),)
    large_texts = (Qwen2_5_VLForConditionalGeneration,)
    pipeline_class: ClassVar[Any] = QwenImagePipeline
    call_options: ClassVar[Mapping[str, Any]] = {"negative_prompt": ""}  # without one it does not guide
    autoencoders: ClassVar[Mapping[str, Any]] = {"AutoencoderKLQwenImage": AutoencoderKLQwenImage}
    autoencoder_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {"input_channels": (3,)}
    autoencoder_keys = (SIDE,)
    latent_channels = "z_dim"
    float_layers = ("img_in", "txt_in", "time_text_embed.*", "norm_out.*", "proj_out")
    block_classes: ClassVar[tuple[type, ...]] = (QwenImageTransformerBlock,)
    network_timesteps = 1
    recordable = False
    denoiser_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **dict.fromkeys(("guidance_embeds", "zero_cond_t", "use_additional_t_cond", "use_layer3d_rope"), (False,)),
        "patch_size": (PATCH,),
    }

    def predict(
        self,
        denoiser: Any,
        x_t: Float[Tensor, "b c h w"],
        t: Float[Tensor, "..."] | Int[Tensor, "..."],
        conditioning: Conditioning,
    ) -> Float[Tensor, "b c h w"]:
        """Return transformer(patches of x_t, sigma, tokens, mask)."""
        found = denoiser(
            hidden_states=packed(x_t),
            timestep=self.network_time(t, len(x_t)).to(x_t.device),
            encoder_hidden_states=conditioning.tokens,
            encoder_hidden_states_mask=conditioning.extra[MASK],
            img_shapes=[[(1, x_t.shape[-2] // PATCH, x_t.shape[-1] // PATCH)]] * len(x_t),
        ).sample
        return unpacked(found, x_t)

    def guide(
        self, unconditional: Float[Tensor, "b c h w"], conditional: Float[Tensor, "b c h w"], guidance: float
    ) -> Float[Tensor, "b c h w"]:
        """Return the guided prediction, each patch as long as that of the conditional prediction."""
        guided, wanted = packed(super().guide(unconditional, conditional, guidance)), packed(conditional)
        return unpacked(guided * (wanted.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)), conditional)

    def new_denoiser(self, config: Mapping[str, Any]) -> Any:
        """Return the transformer; its tables of places, which are in no file, have numbers on the meta device too."""
        denoiser = super().new_denoiser(config)
        if (places := denoiser.pos_embed).pos_freqs.is_meta:
            with torch.device("cpu"):
                denoiser.pos_embed = type(places)(places.theta, places.axes_dim, places.scale_rope)
        return denoiser

    # ---- text and pictures

    def require_whole(self, tokenizers: Sequence[Any], prompts: Iterable[str]) -> None:
        (tokenizer,) = tokenizers
        template, dropped = _template()
        require_room_in(template.format, tokenizer, prompts, dropped + WORDS)

    def encode_prompts(self, encoders: Sequence[TextEncoder], prompts: Sequence[str], side: int) -> Conditioning:
        """Return the last hidden states of each prompt in its template, without those of the template's beginning."""
        (encoder,) = encoders
        self.require_whole([encoder.tokenizer], prompts)
        template, dropped = _template()
        tokens, mask = hidden_states(encoder, [*map(template.format, prompts)], -1, dropped, WORDS, logits_to_keep=1)
        return Conditioning(tokens, {MASK: mask})

    def pixels_per_latent(self, autoencoder: Any) -> int:
        return int(autoencoder.spatial_compression_ratio)

    def encode_images(self, autoencoder: Any, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c hl wl"]:
        """Return (the posterior's mode - mean) / deviation of pictures as videos of one frame."""
        mean, deviation = _statistics(autoencoder)
        return (autoencoder.encode((images * 2 - 1)[:, :, None]).latent_dist.mode()[:, :, 0] - mean) / deviation

    def decode_latents(self, autoencoder: Any, latents: Float[Tensor, "b c hl wl"]) -> Float[Tensor, "b 3 h w"]:
        mean, deviation = _statistics(autoencoder)
        return (autoencoder.decode((latents * deviation + mean)[:, :, None]).sample[:, :, 0] / 2 + 0.5).clamp(0, 1)

    # ---- files

    def examine(self, folder: Path) -> Shape:
        transformer, vae, factor = self.parts_config(folder)
        text_file, text, *_ = text_configs(folder, "text_encoder", "tokenizer")
        wanted = {
            "in_channels": (4 * vae["z_dim"], "4 x z_dim of vae/"),
            "out_channels": (vae["z_dim"], "z_dim of vae/"),
            "joint_attention_dim": (whole(text_file, text, "hidden_size"), "hidden_size of text_encoder/"),
        }
        require_numbers(folder / self.component / CONFIG, transformer, wanted)
        return self.shape(folder, vae["z_dim"], factor)


@cache
def _template() -> tuple[str, int]:
    """Return diffusers' template of prompts, and how many tokens at its beginning are dropped."""
    parts = ("scheduler", "vae", "text_encoder", "tokenizer", "transformer")
    pipeline = QwenImagePipeline(**dict.fromkeys(parts))
    return str(pipeline.prompt_template_encode), int(pipeline.prompt_template_encode_start_idx)


def _statistics(autoencoder: Any) -> list[Tensor]:
    """Return mean and deviation of each channel of latents."""
    said = (autoencoder.config.latents_mean, autoencoder.config.latents_std)
    return [torch.tensor(one, device=autoencoder.device).view(1, -1, 1, 1) for one in said]
