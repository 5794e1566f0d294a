"""Load LoRA files made by other tools onto a float or quantized base, with a weight each, for every sample.

    y = layer(x) + sum_j w_j s_j B_j A_j x,    s = alpha / r, or alpha / sqrt(r) for rank-stabilized LoRA

in addition to what is tuned. Safetensors only: other formats can run code when they are read.
"""

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.claims import OTHER_KINDS, of_architecture, of_schedule
from quantbooth.diffusion.lora_config import LoraConfig
from quantbooth.diffusion.lora_names import Names, Place, parts_of
from quantbooth.diffusion.lora_translation import translated
from quantbooth.diffusion.model import Family
from quantbooth.diffusion.schedule import Schedule
from quantbooth.diffusion.weights import FLOATS, is_finite
from quantbooth.quant import adapters
from quantbooth.quant.adapters import Factors
from quantbooth.quant.low_rank import form_of
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.progress import say
from quantbooth.store.documents import checked, parsed_json, read_as

__all__ = ["LoraFile", "add_loras_", "lora_file", "lora_files"]

USUAL = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
"""The file names that PEFT and diffusers write in a folder."""
CONFIG = "adapter_config.json"
"""The file in which PEFT stores alpha, next to `adapter_model.safetensors`."""
CLOSE = 1e-2
"""Half precision rounds an alpha by less."""
METADATA = "lora_adapter_metadata"
"""The metadata key under which diffusers stores alpha, inside the file."""


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file and its weight."""

    path: Path
    weight: float

    @property
    def name(self) -> str:
        """The file's name, or its folder's where the file has the usual one; the weight where it is not 1."""
        name = self.path.parent.name if self.path.name in USUAL else self.path.stem
        return name if self.weight == 1 else f"{name}:{self.weight:.15g}"

    @property
    def config(self) -> Path | None:
        """PEFT's configuration file, for PEFT's file name only."""
        return self.path.with_name(CONFIG) if self.path.name == USUAL[0] else None

    @property
    def identity(self) -> dict[str, Any]:
        """The contents and the weight, which decide pictures; the path does not."""
        files = [self.path, *([] if self.config is None else [self.config])]
        contents = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        return {"contents": contents, "weight": self.weight}


def lora_files(texts: Sequence[str]) -> tuple[LoraFile, ...]:
    """Return the LoRA files of a list of PATH or PATH:WEIGHT (see `lora_file`).

    Raises:
        UserError: when an entry is not such a file.
    """
    return tuple(lora_file(text) for text in texts)


def lora_file(text: str) -> LoraFile:
    """Return the LoRA file of PATH or PATH:WEIGHT, with weight 1 by default; a folder means the LoRA file in it.

    Raises:
        UserError: when PATH does not exist or is not safetensors, or PEFT's alpha is missing.
    """
    name, _, given = text.rpartition(":")
    weight = _number(given) if name else None
    path = Path(text if weight is None else name).expanduser()
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise UserError(f"lora: no file or folder at {path}")
    if path.suffix != ".safetensors":
        raise UserError(f"lora: {path} must be in safetensors, for other files can run code; convert it first")
    made = LoraFile(path, 1.0 if weight is None else weight)
    if made.config is not None and not made.config.is_file():
        raise UserError(f"lora: {CONFIG} with alpha must be in the folder of {path}")
    return made


def add_loras_(base: Base, loras: Sequence[LoraFile]) -> None:
    """Add LoRA files to the denoiser and the text encoders of a base.

    Raises:
        UserError: naming the file, when it matches no layer, matches only in part, or does not fit.
    """
    parts = parts_of(base)
    found: dict[str, dict[str, list[Factors]]] = {part: {} for part in parts}
    for lora in loras:
        for (part, layer), factors in _factors(lora, base, parts).items():
            found[part].setdefault(layer, []).append(factors)
    for part, network in parts.items():
        adapters.add_(network, found[part])


def _factors(lora: LoraFile, base: Base, parts: Mapping[str, nn.Module]) -> dict[Place, Factors]:
    """Return A and B of every layer in a file, its scale and weight folded into B."""
    tensors, header = _read(lora)
    _compare(lora.path, header, base)
    configs = _configs(lora, header, parts)
    placed = _placed(lora.path, tensors, base.family, parts)
    made: dict[Place, Factors] = {}
    for (part, layer), halves in placed.items():
        if not {"A", "B"} <= halves.keys():
            raise UserError(
                f"{lora.path}: of {part}.{layer} it must hold both factors, got {', '.join(sorted(halves))}"
            )
        alpha, where = halves.get("alpha"), f"{lora.path}: {part}.{layer}"
        rank = len(halves["A"]) if halves["A"].ndim else 0
        if rank == 0 or (alpha is not None and alpha.numel() != 1):
            raise UserError(f"{where}: it must hold a rank of 1 or more and one number as alpha")
        scale = _scale(where, configs.get(part, {}), rank, None if alpha is None else float(alpha))
        module = parts[part].get_submodule(layer)
        made[part, layer] = _fitted(module, halves["A"], halves["B"], lora.weight * scale)
        adapters.require_shapes(module, f"{part}.{layer}", made[part, layer], str(lora.path))
        if not is_finite(made[part, layer][1]):
            raise UserError(f"{where}: B times weight and alpha / r must be finite; choose a smaller weight")
    return made


def _compare(path: Path, header: Mapping[str, str], base: Base) -> None:
    """Say what a file was trained to predict, where the base predicts otherwise.

    Raises:
        UserError: when the file says another architecture than the base's.
    """
    for key, said, expected in of_architecture(header, base.family, OTHER_KINDS):
        if said != expected:
            raise UserError(f"{path} says {key} = {said}, this base is {expected}; choose a LoRA of this base")
    schedule = base.schedule
    claims = of_schedule((), header, schedule) if isinstance(schedule, Schedule) else ()  # trainers say none of flows
    for key, said, expected in claims:
        if said != expected:
            say(f"warning: {path} says {key} = {said}, this base says {expected}, so it was trained on another base")


def _placed(
    path: Path, tensors: Mapping[str, Tensor], family: Family, parts: Mapping[str, nn.Module]
) -> dict[Place, dict[str, Tensor]]:
    """Return the tensors of a file by layer of the base, translated where it has the original code's layers.

    Raises:
        UserError: when no tensor matches, with examples; otherwise naming the first that does not match, or that is
            a factor of a layer which another tensor is already.
    """
    names = Names(family, parts)
    places = {key: names.find(key) for key in tensors}
    if not all(places.values()) and (others := translated(tensors, family)) and all(map(names.find, others)):
        tensors, places = others, {key: names.find(key) for key in others}
    if not any(places.values()):
        own, ours = (" and ".join(map(repr, some)) for some in (list(tensors)[:2], names.examples()))
        raise UserError(f"{path} matches nothing of this base: it holds {own or 'nothing'}, the base {ours}")
    placed: dict[Place, dict[str, Tensor]] = {}
    for key, found in places.items():
        if found is None:
            raise UserError(f"{path} does not fit this base: {key!r} is not a LoRA factor of one of its layers")
        halves = placed.setdefault(found[0], {})
        if found[1] in halves:
            raise UserError(f"{path} holds {found[1]} of {'.'.join(found[0])} twice, the second time as {key!r}")
        halves[found[1]] = tensors[key]
    return placed


def _fitted(layer: nn.Module, down: Tensor, up: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return A and B in the layer's shape: files store those of a 1 x 1 convolution with or without the 1 x 1 axes."""
    down, up = (tensor.flatten(1) if tensor.shape[2:] == (1, 1) else tensor for tensor in (down, up))
    is_convolution = len(form_of(layer).inputs) == 3
    return (down[..., None, None] if is_convolution and down.ndim == 2 else down).float(), up.float() * scale


def _read(lora: LoraFile) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file and its header."""
    try:
        with safe_open(lora.path, framework="pt") as file:
            kinds = {key: file.get_slice(key).get_dtype() for key in sorted(file.keys())}
            tensors = {key: file.get_tensor(key) for key in kinds}
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{lora.path} cannot be read as a LoRA file: {error}") from error
    for key, kind in kinds.items():
        if kind not in FLOATS and not (key.endswith(".alpha") and kind != "BOOL"):
            raise UserError(f"{lora.path}: {key!r} must be of a floating-point type, found {kind}")
        if not is_finite(tensors[key].float()):
            raise UserError(f"{lora.path}: {key!r} must be finite in float32")
    return tensors, header


def _configs(lora: LoraFile, header: Mapping[str, str], parts: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the LoRA configuration of each part."""
    config = {} if lora.config is None else _told(read_as(LoraConfig, lora.config), str(lora.config))
    named = _by_part(header.get(METADATA, "{}"), f"{lora.path}: {METADATA}", parts)
    return {part: named.get(part, config) for part in parts}


def _by_part(text: str, where: str, parts: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the configurations in a header, whose keys begin with the part of the base: `unet.lora_alpha`."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in checked(dict[str, Any], parsed_json(text, where), where).items():
        part, _, key = name.partition(".")
        if part not in parts:
            raise UserError(f"{where}: {name}: unknown key; the parts of this base are {', '.join(parts)}")
        found.setdefault(part, {})[key] = value
    places = {part: f"{where}: {part}" for part in found}
    return {part: _told(checked(LoraConfig, found[part], place), place) for part, place in places.items()}


def _told(config: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a configuration that decides the scale: PEFT always writes alpha, and its default is no neutral one.

    Raises:
        UserError: when it lacks `lora_alpha`, or has PEFT's `alpha_pattern`, an alpha per layer.
    """
    if config.get("alpha_pattern"):
        raise UserError(f"{where}: an alpha_pattern is not covered; save it with one lora_alpha")
    if "lora_alpha" not in config:
        raise UserError(f"{where} must say lora_alpha; PEFT writes it")
    return config


def _scale(where: str, config: Mapping[str, Any], rank: int, alpha: float | None) -> float:
    """Return alpha / r, or alpha / sqrt(r) with rsLoRA; 1 where neither the layer nor a configuration has an alpha.

    Raises:
        UserError: when the configuration says another rank for all layers, or another alpha than the layer has.
    """
    if not config.get("rank_pattern") and config.get("r", rank) != rank:
        raise UserError(f"{where}: its rank is {rank}, its configuration says r = {config['r']}")
    said = config.get("lora_alpha")
    if alpha is not None and said is not None and not math.isclose(alpha, said, rel_tol=CLOSE):
        raise UserError(f"{where}: its alpha is {alpha:g}, its configuration says lora_alpha = {said:g}")
    found = next((value for value in (alpha, said) if value is not None), rank)
    return float(found) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _in_folder(folder: Path) -> Path:
    named = [folder / name for name in USUAL if (folder / name).is_file()]
    found = named or sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        own = ", ".join(path.name for path in found) or "none"
        raise UserError(f"lora: the folder {folder} must hold one file in safetensors, found {own}")
    return found[0]


def _number(text: str) -> float | None:
    """Return the finite number in a text, or None; 1_0 is part of a name."""
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None
