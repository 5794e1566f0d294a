"""A base: the parts of one text-to-image model, and what may be asked of them; its family gives the answers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.model import Family, NoiseSchedule, TextEncoder

__all__ = ["Base", "frozen"]


@dataclass(frozen=True)
class Base:
    """Denoiser + autoencoder + text encoders + noise schedule of one text-to-image model.

    Attributes:
        name: what figures made with this base are labelled with.
        family: knows how networks of this kind are called.
        denoiser: predicts noise or velocity from (x_t, t, conditioning); float or quantized.
        autoencoder: a diffusers autoencoder (``AutoencoderKL`` or ``AutoencoderTiny``); None where none is needed.
        encoders: its text encoders, as the family wants them; none where no prompt is encoded any more.
        scheduler_config: the configuration of the diffusers noise schedule the base was trained with.
    """

    name: str
    family: Family
    denoiser: Any
    autoencoder: Any
    encoders: tuple[TextEncoder, ...]
    scheduler_config: dict[str, Any]

    # ---- what is asked while a model is calibrated, tuned, drawn from, or measured

    def predict(
        self,
        x_t: Float[Tensor, "b c h w"],
        t: Float[Tensor, "..."] | Int[Tensor, "..."],
        conditioning: Conditioning,
    ) -> Float[Tensor, "b c h w"]:
        """Return what the denoiser predicts at x_t; t is one training timestep per sample, or one for all."""
        return self.family.predict(self.denoiser, x_t, t, conditioning)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return the conditioning of some prompts, a row each; with gradient where part of an encoder learns."""
        return self.family.encode_prompts(self.encoders, prompts, self.side)

    @torch.no_grad()
    def encode_images(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c hl wl"]:
        """Return latents, scaled to about unit variance, of images in [0, 1]."""
        return self.family.encode_images(self.autoencoder, images.to(self.device))

    @torch.no_grad()
    def decode_latents(self, latents: Float[Tensor, "b c hl wl"]) -> Float[Tensor, "b 3 h w"]:
        """Return images in [0, 1] of scaled latents."""
        return self.family.decode_latents(self.autoencoder, latents)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return (channels, height, width) of the latents of its pictures."""
        return self.family.latent_shape(self.denoiser)

    @property
    def side(self) -> int:
        """Return the side of the pictures it draws, in pixels."""
        return self.latent_shape[-1] * self.family.pixels_per_latent(self.autoencoder)

    @property
    def schedule(self) -> NoiseSchedule:
        """Return its noise schedule."""
        return self.family.schedule(self.scheduler_config)

    @property
    def timesteps(self) -> int:
        """Return T, the number of training timesteps."""
        return int(self.scheduler_config["num_train_timesteps"])

    def new_scheduler(self, name: str, steps: int) -> Any:
        """Return a fresh sampler of that name on the base's own noise schedule, its timesteps set.

        Raises:
            UserError: when the family does not have this sampler.
        """
        return self.family.new_scheduler(name, self.scheduler_config, steps, self.latent_shape)

    def blocks(self) -> list[str]:
        """Return the names of the denoiser's modules whose layers calibration learns together."""
        return self.family.blocks(self.denoiser)

    def skip_splits(self) -> dict[str, tuple[int, int]]:
        """Return the layers that see a concatenation, each with how many of its inputs come from where.

        Raises:
            UserError: when the denoiser has no skip connections.
        """
        return self.family.skip_splits(self.denoiser)

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Return patterns of the denoiser's layers that are not quantized unless asked."""
        return self.family.float_layers

    def enable_gradient_checkpointing_(self) -> None:
        """Let the denoiser's backward pass compute the inside of blocks again in the place of keeping it."""
        self.family.enable_gradient_checkpointing_(self.denoiser)

    # ---- its parts

    @property
    def device(self) -> torch.device:
        return self.text_encoder.device

    @property
    def networks(self) -> nn.ModuleList:
        """Return all of them, to be moved together."""
        return nn.ModuleList([self.denoiser, self.autoencoder, *self.text_encoders])

    @property
    def text_encoders(self) -> tuple[Any, ...]:
        return tuple(encoder.network for encoder in self.encoders)

    @property
    def text_encoder(self) -> Any:
        """Return the first of them."""
        return self.encoders[0].network

    @property
    def tokenizer(self) -> Any:
        """Return that of the first text encoder."""
        return self.encoders[0].tokenizer

    @property
    def component(self) -> str:
        """Return what diffusers calls the denoiser within a pipeline, which is the name of its folder too."""
        return self.family.component

    @property
    def denoiser_alone(self) -> "Base":
        """Return it without autoencoder and text encoders, which leave memory when nothing else holds them."""
        return replace(self, autoencoder=None, encoders=())

    def with_denoiser(self, denoiser: nn.Module) -> "Base":
        """Return the same with another denoiser."""
        return replace(self, denoiser=denoiser)

    def with_text_encoder(self, network: nn.Module) -> "Base":
        """Return the same with another first text encoder."""
        first, *others = self.encoders
        return replace(self, encoders=(replace(first, network=network), *others))


def frozen(base: Base) -> Base:
    """The same base in evaluation mode and without a parameter that asks for a gradient."""
    base.networks.eval().requires_grad_(False)
    return base
