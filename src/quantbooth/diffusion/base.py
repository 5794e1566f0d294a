"""A base: the parts of one text-to-image model, with the operations that its family implements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.model import Family, TextEncoder
from quantbooth.diffusion.noise_schedule import NoiseSchedule
from quantbooth.diffusion.weights import is_finite
from quantbooth.runtime.devices import sent
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.precision import full_precision

__all__ = ["Base", "frozen"]


@dataclass(frozen=True)
class Base:
    """Denoiser + autoencoder + text encoders + noise schedule of one text-to-image model.

    Attributes:
        name: the base's label in tables and figures.
        family: implements the operations for this kind of pipeline.
        denoiser: predicts noise or velocity from (x_t, t, conditioning); float or quantized.
        autoencoder: a diffusers autoencoder (``AutoencoderKL`` or ``AutoencoderTiny``); None where none is needed.
        encoders: its text encoders, in the family's order; empty where no prompt is encoded any more.
        scheduler_config: the configuration of the diffusers scheduler that the base was trained with.
        encoded: the conditioning of each prompt that was encoded before the text encoders were freed.
    """

    name: str
    family: Family
    denoiser: Any
    autoencoder: Any
    encoders: tuple[TextEncoder, ...]
    scheduler_config: dict[str, Any]
    encoded: Mapping[str, Conditioning] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.family.keep_tables_on_cpu_(self.denoiser)

    # ---- operations of calibration, tuning, sampling and measurement

    def predict(
        self,
        x_t: Float[Tensor, "b c h w"],
        t: Float[Tensor, "..."] | Int[Tensor, "..."],
        conditioning: Conditioning,
    ) -> Float[Tensor, "b c h w"]:
        """Return the denoiser's prediction at x_t; t is one training timestep per sample, or one for all."""
        return self.family.predict(self.denoiser, x_t, t, conditioning)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return the conditioning of prompts, a row each; with gradient where part of an encoder is trainable.

        Autocast is off: text encoders compute in the precision of their weights, whenever they encode.
        """
        if self.encoders:
            with full_precision(self.text_encoder.device):
                return self.family.encode_prompts(self.encoders, prompts, self.side)
        rows = Conditioning.cat([self.encoded[prompt] for prompt in prompts])
        return rows.to(self.autoencoder.device).to(self.autoencoder.dtype)

    @torch.no_grad()
    def encode_images(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c hl wl"]:
        """Return latents, scaled to about unit variance, of images in [0, 1]; autocast is off, as for decoding."""
        device = self.autoencoder.device
        with full_precision(device):
            latents = self.family.encode_images(self.autoencoder, sent(images, device))
        return _finite(latents, f"the autoencoder of {self.name} encodes pictures to")

    @torch.no_grad()
    def decode_latents(self, latents: Float[Tensor, "b c hl wl"]) -> Float[Tensor, "b 3 h w"]:
        """Return images in [0, 1] of scaled latents; autocast is off, since autoencoders overflow in float16."""
        _finite(latents, f"the denoiser of {self.name}, with what was tuned, ends in")
        with full_precision(latents.device):
            images = self.family.decode_latents(self.autoencoder, latents)
        return _finite(images, f"the autoencoder of {self.name} decodes to")

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the latents."""
        return self.family.latent_shape(self.denoiser)

    @property
    def side(self) -> int:
        """The side of generated pictures, in pixels."""
        return self.latent_shape[-1] * self.family.pixels_per_latent(self.autoencoder)

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule of training."""
        return self.family.schedule(self.scheduler_config)

    @property
    def timesteps(self) -> int:
        """T, the number of training timesteps."""
        return int(self.scheduler_config["num_train_timesteps"])

    def new_scheduler(self, name: str, steps: int) -> Any:
        """Return a new diffusers scheduler of that name on the base's noise schedule, with its timesteps set.

        Raises:
            UserError: when the family does not have this sampler.
        """
        return self.family.new_scheduler(name, self.scheduler_config, steps, self.latent_shape)

    def blocks(self) -> list[str]:
        """Return the names of the denoiser's blocks, which calibration reconstructs one at a time (BRECQ)."""
        return self.family.blocks(self.denoiser)

    def skip_splits(self) -> dict[str, tuple[int, int]]:
        """Return the layers that read a concatenation, with the number of inputs from each source.

        Raises:
            UserError: when the denoiser has no skip connections.
        """
        return self.family.skip_splits(self.denoiser)

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Patterns of the denoiser's layers that stay float by default."""
        return self.family.float_layers

    def enable_gradient_checkpointing_(self) -> None:
        """Recompute the activations of the denoiser's blocks in the backward pass instead of saving them."""
        self.family.enable_gradient_checkpointing_(self.denoiser)

    # ---- its parts

    @property
    def device(self) -> torch.device:
        return self.text_encoder.device

    @property
    def networks(self) -> nn.ModuleList:
        """All networks as one module list, for moving them to a device."""
        return nn.ModuleList([self.denoiser, self.autoencoder, *self.text_encoders])

    @property
    def text_encoders(self) -> tuple[Any, ...]:
        return tuple(encoder.network for encoder in self.encoders)

    @property
    def text_encoder(self) -> Any:
        """The first text encoder."""
        return self.encoders[0].network

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the first text encoder."""
        return self.encoders[0].tokenizer

    @property
    def component(self) -> str:
        """The denoiser's component name in a diffusers pipeline, which is also its folder's name."""
        return self.family.component

    @property
    def denoiser_alone(self) -> "Base":
        """The base without autoencoder and text encoders, so that their memory can be freed."""
        return replace(self, autoencoder=None, encoders=())

    @torch.no_grad()
    def without_text_encoders(self, prompts: Sequence[str]) -> "Base":
        """Return a copy that encodes these prompts alone, so that the text encoders' memory can be freed.

        Each is encoded once, by itself, so that its conditioning does not depend on the others.
        """
        encoded = {prompt: self.encode_prompts([prompt]) for prompt in dict.fromkeys(prompts)}
        return replace(self, encoders=(), encoded=encoded)

    def with_denoiser(self, denoiser: nn.Module) -> "Base":
        """Return a copy with another denoiser."""
        return replace(self, denoiser=denoiser)

    def with_text_encoder(self, network: nn.Module) -> "Base":
        """Return a copy with another first text encoder."""
        first, *others = self.encoders
        return replace(self, encoders=(replace(first, network=network), *others))


def frozen(base: Base) -> Base:
    """Put all networks into evaluation mode, freeze their parameters, and return the base."""
    base.networks.eval().requires_grad_(False)
    return base


def _finite(made: Tensor, what: str) -> Tensor:
    """Return what was made; a picture of nan would be written black, and scored.

    Raises:
        UserError: when it is not finite, naming what made it.
    """
    if not is_finite(made):
        raise UserError(f"{what} nan or infinity; choose trainer.precision=32-true, or another base")
    return made
