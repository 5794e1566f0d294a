"""A base: the parts of one text-to-image model, and the two ways in and one way out of its latent space."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from quantbooth.diffusion.told import with_sizes

__all__ = ["Base", "SecondEncoder", "frozen"]


@dataclass(frozen=True)
class SecondEncoder:
    """What SDXL has beside the first text encoder.

    Attributes:
        text_encoder: a transformers ``CLIPTextModelWithProjection``.
        tokenizer: its tokenizer.
        empty_is_zero: the empty sentence is zeros in the place of what the encoders say.
    """

    text_encoder: Any
    tokenizer: Any
    empty_is_zero: bool


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
        second: SDXL's second text encoder; None for Stable Diffusion.
    """

    name: str
    unet: Any
    autoencoder: Any
    text_encoder: Any
    tokenizer: Any
    scheduler_config: dict[str, Any]
    second: SecondEncoder | None = None

    @property
    def device(self) -> torch.device:
        return self.text_encoder.device

    @property
    def timesteps(self) -> int:
        """T, the number of training timesteps."""
        return int(self.scheduler_config["num_train_timesteps"])

    @property
    def networks(self) -> nn.ModuleList:
        """All of them, to be moved together."""
        return nn.ModuleList([self.unet, self.autoencoder, *self.text_encoders])

    @property
    def text_encoders(self) -> tuple[Any, ...]:
        return (self.text_encoder,) if self.second is None else (self.text_encoder, self.second.text_encoder)

    @property
    def side(self) -> int:
        """Side of the pictures it draws, in pixels."""
        steps = len(self.autoencoder.config.block_out_channels) - 1
        return int(self.unet.config.sample_size) * 2**steps

    @property
    def unet_alone(self) -> "Base":
        """Without autoencoder and text encoders, which leave memory when nothing else holds them."""
        return replace(self, autoencoder=None, text_encoder=None, second=None)

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
        """Sentences as the unet takes them, padded to the tokenizer's full length.

        Of Stable Diffusion the last hidden states of the text encoder; of SDXL the last but one of both, with a row for
        what else its unet is told (see `told`).
        """
        ids = self._tokens(self.tokenizer, texts)
        if self.second is None:
            return self.text_encoder(ids)[0]
        first = self.text_encoder(ids, output_hidden_states=True)
        other = self.second.text_encoder(self._tokens(self.second.tokenizer, texts), output_hidden_states=True)
        hidden = torch.cat([first.hidden_states[-2], other.hidden_states[-2]], dim=-1)
        said = torch.tensor([not self.second.empty_is_zero or bool(text) for text in texts], device=hidden.device)
        return with_sizes(hidden * said[:, None, None], other.text_embeds * said[:, None], self.side)

    def _tokens(self, tokenizer: Any, texts: list[str]) -> Tensor:
        length = tokenizer.model_max_length
        found = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return found.input_ids.to(self.device)


def frozen(base: Base) -> Base:
    """The same base in evaluation mode and without a parameter that asks for a gradient."""
    base.networks.eval().requires_grad_(False)
    return base
