"""The supported families, by the pipeline class in a diffusers folder's `model_index.json`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quantbooth.diffusion.diffusers_folder import read_json, text_encoder_names
from quantbooth.diffusion.families.chroma import Chroma
from quantbooth.diffusion.families.flux1 import Flux1
from quantbooth.diffusion.families.flux2 import Flux2Klein
from quantbooth.diffusion.families.pixart import PixArtSigma
from quantbooth.diffusion.families.qwen_image import QwenImage
from quantbooth.diffusion.families.sana import Sana
from quantbooth.diffusion.families.sd3 import StableDiffusion3
from quantbooth.diffusion.families.sdxl import StableDiffusionXL
from quantbooth.diffusion.families.stable_diffusion import StableDiffusion
from quantbooth.diffusion.families.zimage import ZImage
from quantbooth.diffusion.model import Family
from quantbooth.runtime.errors import UserError

__all__ = ["FAMILIES", "all_schedulers", "family_in", "folders_of_networks"]

FAMILIES: dict[str, type[Family]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "Flux2KleinPipeline": Flux2Klein,
    "FluxPipeline": Flux1,
    "PixArtSigmaPipeline": PixArtSigma,
    "QwenImagePipeline": QwenImage,
    "ChromaPipeline": Chroma,
    "ZImagePipeline": ZImage,
    "SanaPipeline": Sana,
}


def family_in(folder: Path) -> Family:
    """Return the family of a diffusers folder.

    Raises:
        UserError: when `model_index.json` is missing, or names a pipeline of no family.
    """
    index = read_json(folder / "model_index.json")
    found = index.get("_class_name")
    if not isinstance(found, str) or found not in FAMILIES:
        offered = ", ".join(FAMILIES)
        raise UserError(f"{folder}: the pipeline must be a text-to-image one of {offered}, found {found!r}")
    return FAMILIES[found].from_folder(folder, index)


def all_schedulers() -> Mapping[str, Any]:
    """Return the schedulers of all families."""
    return {name: kind for family in FAMILIES.values() for name, kind in family.schedulers.items()}


def folders_of_networks() -> tuple[str, ...]:
    """Return the network folders of all families, each once."""
    return tuple(dict.fromkeys(name for family in FAMILIES.values() for name in _folders(family)))


def _folders(family: type[Family]) -> Iterator[str]:
    yield from (family.component, "vae", *text_encoder_names(len(family.text_classes)))
