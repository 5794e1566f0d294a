"""The base class of flow families whose scheduler shifts by the number of 2 x 2 patches, and latents as a row of these.

Their files say the side of pictures as `sample_size` of the autoencoder, by default 1024.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from quantbooth.diffusion.diffusers_folder import part_of, read_json
from quantbooth.diffusion.families.flow import PATCH, FlowFamily, mu_by_patches
from quantbooth.diffusion.families.folder_config import CONFIG, whole
from quantbooth.diffusion.model import Shape
from quantbooth.runtime.errors import UserError

__all__ = ["PackedFlow", "packed", "places", "unpacked"]

SIDE = "sample_size"
FACTOR = 8
"""Pixels per latent of the autoencoders."""


def packed(x_t: Float[Tensor, "b c h w"]) -> Float[Tensor, "b patches d"]:
    """Return the 2 x 2 patches of latents in rows, d = 4 c numbers each."""
    return pixel_unshuffle(x_t, PATCH).flatten(2).transpose(1, 2)


def unpacked(patches: Float[Tensor, "b patches d"], like: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Return the inverse of `packed`, of the height and width of `like`."""
    size = (like.shape[-2] // PATCH, like.shape[-1] // PATCH)
    return pixel_shuffle(patches.transpose(1, 2).unflatten(2, size), PATCH)


def places(x_t: Float[Tensor, "b c h w"]) -> Int[Tensor, "patches 3"]:
    """Return (picture, row, column) of each patch, on the device of the latents."""
    counts = (1, x_t.shape[-2] // PATCH, x_t.shape[-1] // PATCH)
    return torch.cartesian_prod(*(torch.arange(count, device=x_t.device) for count in counts))


@dataclass(frozen=True)
class PackedFlow(FlowFamily):
    """A family whose scheduler shifts by the number of patches.

    Attributes:
        side: of pictures in pixels, the `sample_size` of its autoencoder.
    """

    side: int = 1024

    @classmethod
    def from_folder(cls, folder: Path, index: Mapping[str, Any]) -> "PackedFlow":
        """Return the family with the side that the autoencoder's configuration says, by default 1024."""
        file = part_of(folder, "vae") / CONFIG
        return cls(whole(file, {SIDE: cls.side, **read_json(file)}, SIDE))

    def latent_shape(self, denoiser: Any) -> tuple[int, int, int]:
        return denoiser.config.in_channels // PATCH**2, self.side // FACTOR, self.side // FACTOR

    def scheduler_options(
        self, scheduler_config: Mapping[str, Any], steps: int, latent_shape: tuple[int, int, int]
    ) -> dict[str, Any]:
        """Return mu by the number of patches, and evenly spaced sigmas from 1 to 1 / steps."""
        return {"mu": mu_by_patches(scheduler_config, latent_shape), "sigmas": np.linspace(1.0, 1 / steps, steps)}

    def shape(self, folder: Path, channels: int, factor: int) -> Shape:
        """Return the shape of latents, given the autoencoder's channels and downsampling factor.

        Raises:
            UserError: when the side does not fit them, or the scheduler is not supported.
        """
        if factor != FACTOR or self.side % (PATCH * factor):
            raise UserError(
                f"{folder}/vae/{CONFIG}: {SIDE} must be a multiple of {PATCH * FACTOR} with 4 levels of resolution, "
                f"found {self.side}, and a downsampling by {factor}"
            )
        return Shape((channels, self.side // factor, self.side // factor), self.side, self.timesteps(folder))
