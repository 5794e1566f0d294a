"""Bases on disk: normal diffusers pipeline folders in safetensors, read and written without running code from them."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from quantbooth.diffusion.base import Base, frozen
from quantbooth.errors import UserError

__all__ = ["as_pipeline", "empty_unet", "load_base", "local_folder", "new_autoencoder", "new_unet", "save_base"]

PARTS = ("unet", "autoencoder", "text_encoder")
AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}


def new_unet(config: dict[str, Any]) -> UNet2DConditionModel:
    """A unet with random weights of the architecture described."""
    return UNet2DConditionModel.from_config(config)


def new_autoencoder(config: dict[str, Any]) -> AutoencoderTiny:
    """A small autoencoder with random weights of the architecture described."""
    return AutoencoderTiny.from_config(config)


def empty_unet(folder: Path) -> UNet2DConditionModel:
    """The unet of a base on the meta device: its architecture without a byte of weights."""
    config = UNet2DConditionModel.load_config(str(_part(folder, "unet")))
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)


def load_base(folder: Path, name: str, unet: nn.Module | None = None) -> Base:
    """A base from a diffusers folder, in float32, frozen, offline.

    Args:
        folder: holds ``model_index.json``, ``unet/``, ``vae/``, ``text_encoder/``, ``tokenizer/``, ``scheduler/``.
        name: what figures made with it are labelled with.
        unet: a unet to use in place of the folder's float one, which is then never read.

    Raises:
        UserError: when a part is missing, damaged, or not of a text-to-image model of this kind.
    """
    diffusers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()  # it warns of its own config keys
    transformers_logging.disable_progress_bar()
    index = _read_json(folder / "model_index.json")
    kind = index.get("vae", [None, None])[1]
    if kind not in AUTOENCODERS:
        raise UserError(f"{folder}: the autoencoder must be one of {', '.join(AUTOENCODERS)}, found {kind!r}")
    try:
        return _assemble(folder, name, AUTOENCODERS[kind], unet)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder} cannot be read as a base: {str(error).strip().splitlines()[0]}") from error


def _assemble(folder: Path, name: str, autoencoder: Any, unet: nn.Module | None) -> Base:
    local = {"local_files_only": True, "use_safetensors": True}
    if unet is None:
        unet = UNet2DConditionModel.from_pretrained(str(_part(folder, "unet")), **local).float()
    return frozen(
        Base(
            name=name,
            unet=unet,
            autoencoder=autoencoder.from_pretrained(str(_part(folder, "vae")), **local).float(),
            text_encoder=CLIPTextModel.from_pretrained(str(_part(folder, "text_encoder")), **local).float(),
            tokenizer=CLIPTokenizer.from_pretrained(str(_part(folder, "tokenizer")), local_files_only=True),
            scheduler_config=_read_json(_part(folder, "scheduler") / "scheduler_config.json"),
        )
    )


def local_folder(path: str) -> Path:
    """A base's folder that the user names.

    Raises:
        UserError: when there is no such folder.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"base.path must be a folder in diffusers format, found none at {folder}")
    return folder


def save_base(base: Base, folder: Path, dtype: torch.dtype) -> None:
    """Write a base as a diffusers folder that plain ``StableDiffusionPipeline.from_pretrained`` loads."""
    pipeline = as_pipeline(replace(base, **{part: deepcopy(getattr(base, part)) for part in PARTS}))
    for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        module.to(dtype)
    for module in (pipeline.unet, pipeline.vae):
        module.register_to_config(_name_or_path="")  # diffusers would write where it was loaded from
    pipeline.save_pretrained(str(folder), safe_serialization=True)


def as_pipeline(base: Base) -> StableDiffusionPipeline:
    """The same parts as a diffusers pipeline (no safety checker: none is part of a base)."""
    return StableDiffusionPipeline(
        vae=base.autoencoder,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        unet=base.unet,
        scheduler=DDIMScheduler.from_config(base.scheduler_config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _part(folder: Path, name: str) -> Path:
    part = folder / name
    if not part.is_dir():
        raise UserError(f"{folder} is not a text-to-image model folder: {name}/ is missing; check base.path")
    return part


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path.parent} is not a diffusers model folder: {path.name} is missing; check base.path")
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise UserError(f"{path} is not readable JSON: {error}") from error
