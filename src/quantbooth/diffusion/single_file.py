"""Single-file checkpoints: unet, autoencoder and text encoders of a model in one safetensors file, as people share.

Their names are those of the original code (`model.diffusion_model.input_blocks...`); diffusers knows how to translate
them. The file does not tell the architecture: that is said by the configuration files of a diffusers folder.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError, safe_open

from quantbooth.errors import UserError

__all__ = ["FIRST", "convert"]

FIRST = "model.diffusion_model.input_blocks.0.0.weight"
"""A name that every such file has: the unet's first convolution."""
META = "meta tensor"
"""Stands in what torch says of weights that the file did not give."""
NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")


def convert(file: Path, config: Path, destination: Path) -> None:
    """Write a single file as a diffusers folder in the precision of the file.

    Args:
        file: the checkpoint.
        config: a diffusers folder of the same architecture, whose weights are not read.
        destination: an empty folder.

    Raises:
        UserError: when the file is no such checkpoint, or not of that architecture.
    """
    precision = _precision(file)
    try:
        pipeline = _pipeline(config).from_single_file(
            str(file), config=str(config), torch_dtype=precision, local_files_only=True, safety_checker=None
        )
    except (OSError, ValueError, KeyError, RuntimeError, IndexError, SingleFileComponentError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(_refusal(file, config, "weights are missing" if META in first else first)) from error
    if missing := _missing(pipeline):
        raise UserError(_refusal(file, config, f"{len(missing)} weights are missing, the first is {missing[0]}"))
    pipeline.save_pretrained(str(destination), safe_serialization=True)


def _precision(file: Path) -> torch.dtype:
    try:
        with safe_open(file, framework="pt") as opened:
            if FIRST not in opened.keys():  # noqa: SIM118  # a safetensors handle is no mapping
                raise UserError(
                    f"{file} is no checkpoint of a whole model, it has no {FIRST}; a LoRA goes into lora=[{file.name}]"
                )
            return torch.empty(0, dtype=opened.get_tensor(FIRST).dtype).dtype
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a safetensors file that can be read: {error}") from error


def _pipeline(config: Path) -> type[StableDiffusionPipeline] | type[StableDiffusionXLPipeline]:
    return StableDiffusionXLPipeline if (config / "text_encoder_2").is_dir() else StableDiffusionPipeline


def _missing(pipeline: Any) -> list[str]:
    """Weights that the file did not give: diffusers leaves them on the meta device."""
    networks = {name: getattr(pipeline, name, None) for name in NETWORKS}
    return [
        f"{part}.{name}"
        for part, network in networks.items()
        if network is not None
        for name, weight in network.named_parameters()
        if weight.is_meta
    ]


def _refusal(file: Path, config: Path, reason: str) -> str:
    return f"{file} is not of the architecture of {config} ({reason.rstrip('.')}); choose another base.config"
