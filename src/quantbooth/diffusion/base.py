"""A base: the parts of one text-to-image model, and the two ways in and one way out of its latent space."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Base", "frozen"]


@dataclass(frozen=True)
class Base:
    """unet + autoencoder + text encoder + tokenizer + noise schedule of one text-to-image model.

    Attributes:
        name: what figures made with this base are labelled with.
        unet: predicts noise from (x_t, t, text); float or quantized.
        autoencoder: a diffusers autoencoder (``AutoencoderKL`` or ``AutoencoderTiny``).
        text_encoder: a transformers ``CLIPTextModel``.
        tokenizer: its tokenizer.
        scheduler_config: the configuration of the diffusers noise schedule the base was trained with.
    """

    name: str
    unet: Any
    autoencoder: Any
    text_encoder: Any
    tokenizer: Any
    scheduler_config: dict[str, Any]

    @property
    def device(self) -> torch.device:
        return self.text_encoder.device

    @property
    def timesteps(self) -> int:
        """T, the number of training timesteps."""
        return int(self.scheduler_config["num_train_timesteps"])

    def with_unet(self, unet: nn.Module) -> "Base":
        return replace(self, unet=unet)

    @torch.no_grad()
    def encode_images(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c hl wl"]:
        """Latents, scaled to about unit variance, of images in [0, 1] (the mode of the posterior where it has one)."""
        posterior = self.autoencoder.encode(images.to(self.device) * 2 - 1)
        latents = posterior.latent_dist.mode() if hasattr(posterior, "latent_dist") else posterior.latents
        return latents * self.autoencoder.config.scaling_factor

    @torch.no_grad()
    def decode_latents(self, latents: Float[Tensor, "b c hl wl"]) -> Float[Tensor, "b 3 h w"]:
        """Images in [0, 1] of scaled latents."""
        images = self.autoencoder.decode(latents / self.autoencoder.config.scaling_factor).sample
        return (images / 2 + 0.5).clamp(0, 1)

    def encode_texts(self, texts: list[str]) -> Float[Tensor, "b length d"]:
        """Last hidden states of the text encoder, padded to the tokenizer's full length."""
        tokens = self.tokenizer(
            texts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return self.text_encoder(tokens.input_ids.to(self.device))[0]


def frozen(base: Base) -> Base:
    """The same base in evaluation mode and without a parameter that asks for a gradient."""
    for module in (base.unet, base.autoencoder, base.text_encoder):
        module.eval().requires_grad_(False)
    return base
