"""Which weights of a single file a base takes: diffusers' translation of names is followed, and the rest is named.

Weights are followed by name alone, before the file is read: `Followed` stands for each in diffusers' translation.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    SD_2_TEXT_ENCODER_KEYS_TO_IGNORE,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import nn

from quantbooth.diffusion.diffusers_folder import part_of, text_encoder_names
from quantbooth.diffusion.model import Family
from quantbooth.diffusion.pretrained import autoencoder_class, empty_denoiser

__all__ = ["NETWORKS", "untaken"]

DENOISER, AUTOENCODER = "model.diffusion_model.", "first_stage_model."
TEXT_ENCODERS: dict[int, list[tuple[str, ...]]] = {
    1: [("cond_stage_model.transformer.", "cond_stage_model.model.")],
    2: [("conditioner.embedders.0.transformer.",), ("conditioner.embedders.1.model.",)],
}
"""Beginnings of the names of each text encoder, by their number: of CLIP, which ends in transformer, or of OpenCLIP."""
WRAPPER = "text_model."
NETWORKS = (DENOISER, AUTOENCODER, "cond_stage_model.", "conditioner.", "model_ema.")
"""Beginnings of the names of all weights."""
SPARE = re.compile(r"model_ema\..*|.*\.(embeddings\.position_ids|logit_scale|attn_mask)")
"""Averages of the denoiser, which diffusers does not read; what is computed; a temperature that only training has."""
SPARE_OF_OPEN_CLIP = frozenset(SD_2_TEXT_ENCODER_KEYS_TO_IGNORE)
"""The last layer and the projection, which Stable Diffusion 2 does not use."""


@dataclass(frozen=True)
class Followed:
    """A weight in diffusers' translation, which slices and transposes: it stays the weight of that name."""

    name: str
    shape: tuple[int, ...] = (1,)
    ndim: int = 1

    def __getitem__(self, _: Any) -> "Followed":
        return self

    @property
    def T(self) -> "Followed":  # as a tensor's
        return self

    def contiguous(self) -> "Followed":
        return self

    clone = detach = contiguous


def untaken(names: Collection[str], config: Path, family: Family) -> list[str]:
    """Return the weights of networks in a single file that no network of the base takes, without known spare ones.

    Args:
        names: of all tensors in the file.
        config: the diffusers folder with the architecture.
        family: of the base.
    """
    taken = {f"{DENOISER}{name}" for name in family.original_names(empty_denoiser(config))}
    vae, kind = part_of(config, "vae"), autoencoder_class(config)
    with torch.device("meta"):
        autoencoder = kind.from_config(kind.load_config(str(vae)))
    found = convert_ldm_vae_checkpoint(_followed(names, AUTOENCODER), autoencoder.config)
    taken |= _taken(found, autoencoder)
    networks = [network for network, _ in family.text_classes]
    folders = text_encoder_names(len(networks))
    for network, folder, beginnings in zip(networks, folders, TEXT_ENCODERS[len(folders)], strict=True):
        settings = network.config_class.from_pretrained(str(part_of(config, folder)))
        with torch.device("meta"):
            encoder = network(settings)
        for beginning in beginnings:
            followed = _followed(names, beginning)
            if beginning.endswith(".model."):
                found = convert_open_clip_checkpoint(encoder, followed, prefix=beginning)
            else:
                found = {name.removeprefix(beginning): weight for name, weight in followed.items()}
            taken |= _taken(found, encoder)
    rest = (name for name in set(names) - taken - SPARE_OF_OPEN_CLIP if name.startswith(NETWORKS))
    return sorted(name for name in rest if not SPARE.fullmatch(name))


def _followed(names: Iterable[str], beginning: str) -> dict[str, Any]:
    return {name: Followed(name) for name in names if name.startswith(beginning)}


def _taken(translated: Mapping[str, Followed | None], network: nn.Module) -> set[str]:
    """Return the weights whose translated names a network has; releases of transformers have `text_model.` or not."""
    own = {name.removeprefix(WRAPPER) for name in network.state_dict()}
    return {weight.name for name, weight in translated.items() if weight and name.removeprefix(WRAPPER) in own}
