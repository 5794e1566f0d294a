"""FLUX.2 klein: a transformer of double and single blocks by flow matching, and a Qwen3 that reads prompts.

    tokens  [b, 512, 3 d]   hidden states of the layers 9, 18 and 27 side by side, of the prompt in Qwen's chat template
    latents [b, 128, h, w]  of the autoencoder, 2 x 2 patches as channels, normalized by its batch norm's averages

The network gets t / 1000 = sigma, latents as a row of patches, and the places of patches and words. A base that is not
distilled is tuned ("klein-base"); guidance has no effect on a distilled one, which is refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel
from diffusers.models.transformers.transformer_flux2 import Flux2SingleTransformerBlock, Flux2TransformerBlock
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from transformers import Qwen2Tokenizer, Qwen3ForCausalLM

from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.families.flow import PATCH
from quantbooth.diffusion.families.folder_config import CONFIG, require_numbers, text_configs, whole
from quantbooth.diffusion.families.packed import PackedFlow
from quantbooth.diffusion.families.templates import chat_template, require_room_in
from quantbooth.diffusion.model import Shape, TextEncoder
from quantbooth.runtime.errors import UserError

__all__ = ["Flux2Klein"]

WORDS = 512
"""Tokens of a prompt in its template."""
LAYERS = (9, 18, 27)


@dataclass(frozen=True)
class Flux2Klein(PackedFlow):
    """The family of `Flux2KleinPipeline`."""

    denoiser_class = Flux2Transformer2DModel
    text_classes: ClassVar[tuple[tuple[Any, Any], ...]] = ((Qwen3ForCausalLM, Qwen2Tokenizer),)
    large_texts = (Qwen3ForCausalLM,)
    pipeline_class: ClassVar[Any] = Flux2KleinPipeline
    autoencoders: ClassVar[Mapping[str, Any]] = {"AutoencoderKLFlux2": AutoencoderKLFlux2}
    float_layers = ("x_embedder", "context_embedder", "time_guidance_embed.*", "norm_out.*", "proj_out")
    block_classes: ClassVar[tuple[type, ...]] = (Flux2TransformerBlock, Flux2SingleTransformerBlock)
    network_timesteps = 1
    denoiser_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {"guidance_embeds": (False,), "patch_size": (1,)}
    autoencoder_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **PackedFlow.autoencoder_values,
        "patch_size": ([PATCH, PATCH], (PATCH, PATCH)),
    }
    switches: ClassVar[Mapping[str, tuple[Any, ...]]] = {"is_distilled": (False, None)}

    def predict(
        self,
        denoiser: Any,
        x_t: Float[Tensor, "b c h w"],
        t: Float[Tensor, "..."] | Int[Tensor, "..."],
        conditioning: Conditioning,
    ) -> Float[Tensor, "b c h w"]:
        """Return transformer(patches of x_t, sigma, tokens, places)."""
        height, width = x_t.shape[-2:]
        found = denoiser(
            hidden_states=x_t.flatten(2).transpose(1, 2),
            timestep=self.network_time(t, len(x_t)).to(x_t.device),
            encoder_hidden_states=conditioning.tokens,
            img_ids=_places(height, width, 1, x_t.device).expand(len(x_t), -1, -1),
            txt_ids=_places(1, 1, conditioning.tokens.shape[1], x_t.device).expand(len(x_t), -1, -1),
        ).sample
        return found.transpose(1, 2).unflatten(2, (height, width))

    def latent_shape(self, denoiser: Any) -> tuple[int, int, int]:
        return denoiser.config.in_channels, self.side // 16, self.side // 16

    def pixels_per_latent(self, autoencoder: Any) -> int:
        """Return the downsampling factor of autoencoder and patches."""
        return PATCH * super().pixels_per_latent(autoencoder)

    def scheduler_options(
        self, scheduler_config: Mapping[str, Any], steps: int, latent_shape: tuple[int, int, int]
    ) -> dict[str, Any]:
        """Return mu by the numbers of patches and steps, and evenly spaced sigmas from 1 to 1 / steps."""
        mu = compute_empirical_mu(image_seq_len=latent_shape[1] * latent_shape[2], num_steps=steps)
        return {"mu": mu, "sigmas": np.linspace(1.0, 1 / steps, steps)}

    # ---- text and pictures

    def require_whole(self, tokenizers: Sequence[Any], prompts: Iterable[str]) -> None:
        (tokenizer,) = tokenizers
        require_room_in(chat_template(tokenizer, thinking=False), tokenizer, prompts, WORDS)

    def encode_prompts(self, encoders: Sequence[TextEncoder], prompts: Sequence[str], side: int) -> Conditioning:
        """Return three layers' hidden states of each prompt in Qwen's chat template, without thinking."""
        (encoder,) = encoders
        self.require_whole([encoder.tokenizer], prompts)
        texts = [*map(chat_template(encoder.tokenizer, thinking=False), prompts)]
        found = encoder.tokenizer(texts, padding="max_length", max_length=WORDS, return_tensors="pt")
        found = found.to(encoder.network.device)
        output = encoder.network(**found, output_hidden_states=True, use_cache=False)
        return Conditioning(torch.cat([output.hidden_states[layer] for layer in LAYERS], dim=-1).float())

    def encode_images(self, autoencoder: Any, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c hl wl"]:
        """Return (patches of the posterior's mode - mean) / deviation, by the averages of its batch norm."""
        mean, deviation = _statistics(autoencoder)
        return (pixel_unshuffle(autoencoder.encode(images * 2 - 1).latent_dist.mode(), PATCH) - mean) / deviation

    def decode_latents(self, autoencoder: Any, latents: Float[Tensor, "b c hl wl"]) -> Float[Tensor, "b 3 h w"]:
        mean, deviation = _statistics(autoencoder)
        images = autoencoder.decode(pixel_shuffle(latents * deviation + mean, PATCH)).sample
        return (images / 2 + 0.5).clamp(0, 1)

    # ---- files

    def examine(self, folder: Path) -> Shape:
        transformer, vae, factor = self.parts_config(folder)
        text_file, text, *_ = text_configs(folder, "text_encoder", "tokenizer")
        layers, width = whole(text_file, text, "num_hidden_layers"), whole(text_file, text, "hidden_size")
        wanted = {
            "in_channels": (vae["latent_channels"] * PATCH**2, "4 x latent_channels of vae/"),
            "joint_attention_dim": (len(LAYERS) * width, "3 x hidden_size of text_encoder/"),
        }
        require_numbers(folder / self.component / CONFIG, transformer, wanted)
        if layers < LAYERS[-1]:
            raise UserError(f"{text_file}: num_hidden_layers must be {LAYERS[-1]} or more, found {layers}")
        if self.side % (PATCH * factor):
            raise UserError(
                f"{folder}/vae/{CONFIG}: sample_size must be a multiple of {PATCH * factor}, found {self.side}"
            )
        side = self.side // (PATCH * factor)
        return Shape((transformer["in_channels"], side, side), self.side, self.timesteps(folder))


def _places(height: int, width: int, words: int, device: torch.device) -> Int[Tensor, "1 places 4"]:
    """Return (picture, row, column, word) of each place."""
    return torch.cartesian_prod(*(torch.arange(count, device=device) for count in (1, height, width, words)))[None]


def _statistics(autoencoder: Any) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of each channel of patches."""
    norm = autoencoder.bn
    mean, variance = (one.view(1, -1, 1, 1) for one in (norm.running_mean, norm.running_var))
    return mean, (variance + autoencoder.config.batch_norm_eps).sqrt()
