"""Bases on disk: normal diffusers pipeline folders in safetensors, read and written without running code from them."""

import json
from collections.abc import Mapping
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from quantbooth.diffusion.base import Base, SecondEncoder, frozen
from quantbooth.diffusion.told import is_told_sizes, tell_sizes_
from quantbooth.errors import UserError

__all__ = ["as_pipeline", "empty_unet", "load_base", "new_autoencoder", "new_unet", "save_base"]

PARTS = ("unet", "autoencoder", "text_encoder")
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
LOCAL = {"local_files_only": True, "use_safetensors": True}
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
        folder: holds ``model_index.json``, ``unet/``, ``vae/``, ``text_encoder/``, ``tokenizer/``, ``scheduler/``, and
            of SDXL ``text_encoder_2/`` and ``tokenizer_2/``.
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
    if index.get("_class_name") not in PIPELINES:
        found = f"found {index.get('_class_name')!r}"
        raise UserError(f"{folder}: the pipeline must be a text-to-image one of {', '.join(PIPELINES)}, {found}")
    try:
        return _assemble(folder, name, index, unet)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder} cannot be read as a base: {str(error).strip().splitlines()[0]}") from error


def _assemble(folder: Path, name: str, index: Mapping[str, Any], unet: nn.Module | None) -> Base:
    if unet is None:
        unet = UNet2DConditionModel.from_pretrained(str(_part(folder, "unet")), **LOCAL).float()
    tokenizer = _tokenizer(folder, "tokenizer")
    tell_sizes_(unet, tokenizer.model_max_length)
    return frozen(
        Base(
            name=name,
            unet=unet,
            autoencoder=AUTOENCODERS[index["vae"][1]].from_pretrained(str(_part(folder, "vae")), **LOCAL).float(),
            text_encoder=CLIPTextModel.from_pretrained(str(_part(folder, "text_encoder")), **LOCAL).float(),
            tokenizer=tokenizer,
            scheduler_config=_read_json(_part(folder, "scheduler") / "scheduler_config.json"),
            second=_second(folder, index) if is_told_sizes(unet) else None,
        )
    )


def _second(folder: Path, index: Mapping[str, Any]) -> SecondEncoder:
    encoder = CLIPTextModelWithProjection.from_pretrained(str(_part(folder, "text_encoder_2")), **LOCAL).float()
    empty_is_zero = bool(index.get("force_zeros_for_empty_prompt", True))  # as diffusers has it where nothing is said
    return SecondEncoder(encoder, _tokenizer(folder, "tokenizer_2"), empty_is_zero)


def _tokenizer(folder: Path, name: str) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(str(_part(folder, name)), local_files_only=True)


def save_base(base: Base, folder: Path, dtype: torch.dtype) -> None:
    """Write a base as a diffusers folder that plain ``DiffusionPipeline.from_pretrained`` loads."""
    parts = {part: _in_precision(getattr(base, part), dtype) for part in PARTS}
    second = base.second and replace(base.second, text_encoder=_in_precision(base.second.text_encoder, dtype))
    pipeline = as_pipeline(replace(base, **parts, second=second))
    for module in (pipeline.unet, pipeline.vae):
        module.register_to_config(_name_or_path="")  # diffusers would write where it was loaded from
    pipeline.save_pretrained(str(folder), safe_serialization=True)


def _in_precision(module: Any, dtype: torch.dtype) -> Any:
    """The module, or a copy where it is in another precision; either has a configuration of its own."""
    return copy(module) if module.dtype == dtype else deepcopy(module).to(dtype)


def as_pipeline(base: Base) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """The same parts as a diffusers pipeline (no safety checker: none is part of a base)."""
    parts = {
        "vae": base.autoencoder,
        "text_encoder": base.text_encoder,
        "tokenizer": base.tokenizer,
        "unet": base.unet,
        "scheduler": DDIMScheduler.from_config(base.scheduler_config),
    }
    if base.second is None:
        none = dict.fromkeys(("safety_checker", "feature_extractor"))
        return StableDiffusionPipeline(**parts, **none, requires_safety_checker=False)
    return StableDiffusionXLPipeline(
        **parts,
        text_encoder_2=base.second.text_encoder,
        tokenizer_2=base.second.tokenizer,
        force_zeros_for_empty_prompt=base.second.empty_is_zero,
        add_watermarker=False,
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
