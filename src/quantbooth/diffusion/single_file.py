"""A single-file checkpoint as a diffusers folder: nothing in it may say otherwise than base.config.

It has denoiser, autoencoder and text encoders in one safetensors file, under the names of the original code
(`model.diffusion_model.input_blocks...`), which diffusers translates. It does not contain the architecture: the
configuration files of a diffusers folder give that. What it does tell is compared with them:

    modelspec.*, ss_*       of its header: architecture, prediction type, resolution
    v_pred, ztsnr           marks of other tools: it predicts velocity, on a schedule that ends in noise alone
    alphas_cumprod, ...     the noise schedule of the original code
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quantbooth.diffusion.claims import OTHER_KINDS, VELOCITY, ZERO_SNR, Claim, of_architecture, of_schedule
from quantbooth.diffusion.families.registry import family_in, folders_of_networks
from quantbooth.diffusion.model import Family
from quantbooth.diffusion.original_weights import NETWORKS, untaken
from quantbooth.diffusion.schedule import Schedule
from quantbooth.diffusion.scheduler_config import read_scheduler_config
from quantbooth.diffusion.weights import require_floats
from quantbooth.runtime.errors import UserError

__all__ = ["convert"]

SCHEDULE = re.compile(
    r"betas|(alphas|sqrt_alphas|sqrt_one_minus_alphas|log_one_minus_alphas|sqrt_recip_alphas|sqrt_recipm1_alphas)_cumprod"
    r"|alphas_cumprod_prev|posterior_\w+|logvar|lvlb_weights|denoiser\.sigmas"
)
"""Names of the original code's noise schedule."""
CLOSE = 1e-3

META = "meta tensor"
"""Part of torch's message about weights that the file does not contain."""


def convert(file: Path, config: Path, destination: Path) -> None:
    """Write a single file as a diffusers folder in the precision of the file.

    Args:
        file: the checkpoint.
        config: a diffusers folder of the same architecture, whose weights are not read.
        destination: an empty folder.

    Raises:
        UserError: when the file is not such a checkpoint, or not of that architecture.
    """
    family = family_in(config)
    family.examine(config)
    precision = _precision(file, family.first_weight)
    require_floats(file, NETWORKS)
    _require_agreement(file, config, family)
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
            if first not in opened.keys():  # noqa: SIM118  # a safetensors handle is not a mapping
                raise UserError(
                    f"{file} is not a checkpoint of a whole model (no {first}); a LoRA goes into lora=[{file.name}]"
                )
            return torch.empty(0, dtype=opened.get_tensor(first).dtype).dtype
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a safetensors file that can be read: {error}") from error


def _missing(pipeline: Any) -> list[str]:
    """Return the weights that the file does not contain, which diffusers leaves on the meta device."""
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


def _require_agreement(file: Path, config: Path, family: Family) -> None:
    """Refuse a file that says otherwise than the configuration, or has weights that nothing reads."""
    with safe_open(file, framework="pt") as opened:
        names, header = set(opened.keys()), opened.metadata() or {}
        schedule = Schedule(read_scheduler_config(config))
        expected_noise = {name: values for name, values in _of_noise(schedule).items() if name in names}
        noise = {name: opened.get_tensor(name) for name in expected_noise}
    side = str(family.examine(config).side)
    for key, said, expected in (*of_schedule(names, header, schedule), *_of_pictures(header, family, side)):
        if said != expected:
            raise UserError(f"{file} says {key} = {said}, {config} says {expected}; choose another base.config")
    for key, values in expected_noise.items():
        if not _is_close(noise[key], values):
            raise UserError(f"{file} has another noise schedule ({key}) than {config}; choose another base.config")
    others = (name for name in names if not name.startswith(NETWORKS) and not SCHEDULE.fullmatch(name))
    unread = sorted(set(others) - {VELOCITY, ZERO_SNR}) or untaken(names, config, family)
    if unread:
        raise UserError(
            f"{file} has {unread[0]} ({len(unread)} such), which no network of {config} has; choose another base.config"
        )


def _of_pictures(header: Mapping[str, str], family: Family, side: str) -> Iterator[Claim]:
    """Return what a file says of its architecture and its pictures."""
    if (said := header.get("modelspec.resolution")) is not None:
        yield "modelspec.resolution", "x".join(dict.fromkeys(re.findall(r"\d+", said))), side
    yield from of_architecture(header, family, f"lora|{OTHER_KINDS}")


def _of_noise(schedule: Schedule) -> dict[str, Tensor]:
    """Return the numbers of a noise schedule under their names in the original code."""
    alpha_bar = schedule.alpha_bar
    return {
        "betas": schedule.scheduler.betas,
        "alphas_cumprod": alpha_bar,
        "sqrt_alphas_cumprod": alpha_bar.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - alpha_bar).sqrt(),
    }


def _is_close(found: Tensor, expected: Tensor) -> bool:
    """Return whether numbers are those expected, up to CLOSE of the largest, or the precision of the file."""
    if found.shape != expected.shape or not found.is_floating_point():
        return False
    limit = max(CLOSE, torch.finfo(found.dtype).eps) * float(expected.max())
    return bool(((found.to(expected) - expected).abs() < limit).all())
