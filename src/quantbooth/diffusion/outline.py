"""A base without weights and text encoders: what its configurations say of sizes, timesteps and schedulers."""

from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.diffusers_folder import part_of, read_json
from quantbooth.diffusion.families.registry import family_in
from quantbooth.diffusion.pretrained import autoencoder_class, empty_denoiser
from quantbooth.diffusion.weights import readable

__all__ = ["outline"]


def outline(folder: Path, name: str) -> Base:
    """Return a base whose networks are on the meta device, from the configurations in a diffusers folder.

    Raises:
        UserError: when one is missing, of a kind that is not supported, or of a network that cannot be.
    """
    diffusers_logging.set_verbosity_error()  # diffusers warns about its own config keys
    place = part_of(folder, "vae")
    with readable(place), torch.device("meta"):
        autoencoder = autoencoder_class(folder).from_config(read_json(place / "config.json"))
    scheduler_config = read_json(part_of(folder, "scheduler") / "scheduler_config.json")
    return Base(name, family_in(folder), empty_denoiser(folder), autoencoder, (), scheduler_config)
