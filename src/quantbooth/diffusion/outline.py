"""A base without weights: what its configurations say of sizes, timesteps, schedulers and layers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.diffusers_folder import part_of, read_json, text_encoder_names
from quantbooth.diffusion.families.registry import family_in
from quantbooth.diffusion.model import Family, TextEncoder
from quantbooth.diffusion.pretrained import autoencoder_class, empty_denoiser, read_tokenizers
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
    family = family_in(folder)
    return Base(name, family, empty_denoiser(folder), autoencoder, _encoders(folder, family), scheduler_config)


def _encoders(folder: Path, family: Family) -> tuple[TextEncoder, ...]:
    networks = [network for network, _ in family.text_classes]
    found = []
    for part, kind, tokenizer in zip(text_encoder_names(len(networks)), networks, read_tokenizers(folder), strict=True):
        place = part_of(folder, part)
        with readable(place), torch.device("meta"):
            config = kind.config_class.from_pretrained(str(place))
            dtype = (config.dtype if kind in family.large_texts else None) or torch.float32  # as `load_base` reads it
            for one in (config, *(getattr(config, part) for part in config.sub_configs)):
                one.dtype = dtype
            with _weights_of(dtype):
                found.append(TextEncoder(kind(config), tokenizer))
    return tuple(found)


@contextmanager
def _weights_of(dtype: torch.dtype) -> Iterator[None]:
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)
