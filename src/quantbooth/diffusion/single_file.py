"""Single-file checkpoints: denoiser, autoencoder and text encoders of a model in one safetensors file, as people share.

Their names are those of the original code (`model.diffusion_model.input_blocks...`); diffusers knows how to translate
them. The file does not tell the architecture: that is said by the configuration files of a diffusers folder.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError, safe_open

from quantbooth.diffusion.families.registry import family_in, folders_of_networks
from quantbooth.errors import UserError

__all__ = ["convert"]

META = "meta tensor"
"""Stands in what torch says of weights that the file did not give."""


def convert(file: Path, config: Path, destination: Path) -> None:
    """Write a single file as a diffusers folder in the precision of the file.

    Args:
        file: the checkpoint.
        config: a diffusers folder of the same architecture, whose weights are not read.
        destination: an empty folder.

    Raises:
        UserError: when the file is no such checkpoint, or not of that architecture.
    """
    family = family_in(config)
    precision = _precision(file, family.first_weight)
    try:
        pipeline = family.pipeline_class.from_single_file(
            str(file), config=str(config), torch_dtype=precision, local_files_only=True, safety_checker=None
        )
    except (OSError, ValueError, KeyError, RuntimeError, IndexError, SingleFileComponentError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(_refusal(file, config, "weights are missing" if META in first else first)) from error
    if missing := _missing(pipeline):
        raise UserError(_refusal(file, config, f"{len(missing)} weights are missing, the first is {missing[0]}"))
    pipeline.save_pretrained(str(destination), safe_serialization=True)


def _precision(file: Path, first: str | None) -> torch.dtype:
    if first is None:
        raise UserError(f"{file}: bases of this family are read from diffusers folders only; choose base.path=DIR")
    try:
        with safe_open(file, framework="pt") as opened:
            if first not in opened.keys():  # noqa: SIM118  # a safetensors handle is no mapping
                raise UserError(
                    f"{file} is no checkpoint of a whole model, it has no {first}; a LoRA goes into lora=[{file.name}]"
                )
            return torch.empty(0, dtype=opened.get_tensor(first).dtype).dtype
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a safetensors file that can be read: {error}") from error


def _missing(pipeline: Any) -> list[str]:
    """Weights that the file did not give: diffusers leaves them on the meta device."""
    networks = {name: getattr(pipeline, name, None) for name in folders_of_networks()}
    return [
        f"{part}.{name}"
        for part, network in networks.items()
        if network is not None
        for name, weight in network.named_parameters()
        if weight.is_meta
    ]


def _refusal(file: Path, config: Path, reason: str) -> str:
    return f"{file} is not of the architecture of {config} ({reason.rstrip('.')}); choose another base.config"
