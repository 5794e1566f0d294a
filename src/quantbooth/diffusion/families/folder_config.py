"""What configuration files of every family have in common: the parts a folder names, their classes, keys and numbers.

Keys of the networks' architectures are diffusers' own matter: it builds the network, and weights fit or are refused.
Looked at here is what a pipeline does around the networks.
"""

import inspect
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from quantbooth.diffusion.diffusers_folder import (
    class_in,
    part_of,
    read_json,
    require_known,
    require_values,
    shortened,
    text_encoder_names,
    tokenizer_names,
)
from quantbooth.runtime.errors import UserError

__all__ = [
    *("CONFIG", "Parts", "clip_config", "latent_shape", "levels", "network_config", "number_above_0"),
    *("require_index", "require_numbers", "text_configs", "whole"),
]

INDEX = "model_index.json"
CONFIG = "config.json"
MADE = ("block_out_channels",)
"""Of an AutoencoderTiny: those of its decoder."""
STORED = "quantization_config"
"""Of a denoiser; see `diffusion.stored`."""
NONE = (None,)
TEXT: dict[str, tuple[Any, ...]] = {"use_attention_mask": (False, None), "auto_map": NONE, "quantization_config": NONE}
CLIP = {"hidden_size": 512, "max_position_embeddings": 77, "projection_dim": 512}
"""Defaults of transformers' CLIPTextConfig."""


@dataclass(frozen=True)
class Parts:
    """The classes of a pipeline's parts.

    Attributes:
        pipeline: diffusers' class.
        component: name of the denoiser's part.
        denoisers: names of diffusers' classes of it.
        autoencoders: diffusers' classes of its autoencoder by their names.
        texts: transformers' classes of each text encoder and its tokenizer.
        schedulers: names of diffusers' classes that its scheduler configuration may be of.
        switches: the supported values of keys of the index that are no parts.
    """

    pipeline: Any
    component: str
    denoisers: Collection[str]
    autoencoders: Mapping[str, Any]
    texts: Sequence[tuple[Any, Any]]
    schedulers: Collection[str]
    switches: Mapping[str, tuple[Any, ...]]


def require_index(folder: Path, parts: Parts) -> Any:
    """Refuse unknown keys, and parts of other classes; return the class of the autoencoder.

    Raises:
        UserError: naming the file, the key and its value.
    """
    file = folder / INDEX
    index = read_json(file)
    require_known(file, index, parts.pipeline)
    require_values(file, index, parts.switches)
    names = zip(text_encoder_names(len(parts.texts)), tokenizer_names(len(parts.texts)), strict=True)
    expected: dict[str, Sequence[str]] = {
        "vae": list(parts.autoencoders),
        parts.component: list(parts.denoisers),
        "scheduler": list(parts.schedulers),
    }
    for (network, tokenizer), named in zip(parts.texts, names, strict=True):
        classes = ([network.__name__], [tokenizer.__name__, f"{tokenizer.__name__}Fast"])
        expected.update(zip(named, classes, strict=True))
    for part, offered in expected.items():
        if class_in(index, part) not in offered:
            wanted = ", ".join(offered[:2])
            raise UserError(f"{file}: {part} must be one of {wanted}, found {shortened(index.get(part))}")
    return parts.autoencoders[str(class_in(index, "vae"))]


def network_config(
    folder: Path,
    part: str,
    kind: Any,
    allowed: Mapping[str, tuple[Any, ...]],
    former: Mapping[str, tuple[Any, ...]] = MappingProxyType({}),
    further: Collection[str] = (),
) -> dict[str, Any]:
    """Return the configuration of a network of diffusers, with its defaults.

    Args:
        folder: of the base.
        part: name of the network.
        kind: diffusers' class of it.
        allowed: supported values of its keys.
        former: those of `_class_name` and of further keys, where files of an older class are supported too.
        further: keys that the class does not have and the caller reads.

    Raises:
        UserError: for a key that the class does not have, or a value that is not among those allowed.
    """
    file = part_of(folder, part) / CONFIG
    found = read_json(file)
    require_known(file, found, kind, (*MADE, *former, *further, *(() if part == "vae" else (STORED,))))
    require_values(file, found, {"_class_name": (kind.__name__,), **former})
    defaults = {name: parameter.default for name, parameter in inspect.signature(kind.__init__).parameters.items()}
    filled = {**defaults, **found}
    require_values(file, filled, allowed)
    return filled


def levels(folder: Path, vae: Mapping[str, Any]) -> int:
    """Return the number of resolutions of an autoencoder, the same in its encoder and its decoder.

    Raises:
        UserError: when they differ, or are no list.
    """
    sides = [key for key in ("encoder_block_out_channels", "decoder_block_out_channels") if vae.get(key) is not None]
    counts = set()
    for key in sides or [key for key in ("block_out_channels", "dim_mult") if key in vae]:
        if not isinstance(found := vae[key], list | tuple) or not found:
            raise UserError(f"{folder}/vae/{CONFIG}: {key} must be a list of numbers, found {shortened(found)}")
        counts.add(len(found))
    if len(counts) > 1:
        raise UserError(f"{folder}/vae/{CONFIG}: {' and '.join(sides)} must be of one length, found {sorted(counts)}")
    return counts.pop()


def text_configs(folder: Path, network: str, tokenizer: str) -> tuple[Path, dict[str, Any], Path, dict[str, Any]]:
    """Return the configuration files of a text encoder and its tokenizer, and what they say of text.

    Raises:
        UserError: when one asks for code of its own, or for a quantization.
    """
    file, words = part_of(folder, network) / CONFIG, part_of(folder, tokenizer) / "tokenizer_config.json"
    own, about = read_json(file), read_json(words)
    require_values(file, own, TEXT)
    require_values(words, about, {"auto_map": NONE})
    inner = own.get("text_config")
    return file, inner if isinstance(inner, dict) else own, words, about


def clip_config(folder: Path, network: str, tokenizer: str) -> dict[str, int]:
    """Return numbers of a CLIP text encoder and its tokenizer.

    Raises:
        UserError: when one is not supported, or the tokenizer does not fit.
    """
    file, own, words, about = text_configs(folder, network, tokenizer)
    numbers = {key: whole(file, {**CLIP, **own}, key) for key in CLIP}
    length, most = about.get("model_max_length"), numbers["max_position_embeddings"]
    if not isinstance(length, int) or not 3 <= length <= most:
        raise UserError(
            f"{words}: model_max_length must be 3 to max_position_embeddings = {most} of {network}/, found "
            f"{shortened(length)}"
        )
    return {**numbers, "model_max_length": length}


def latent_shape(config: Mapping[str, Any], part: str) -> tuple[int, int, int]:
    """Return (channels, height, width) of the latents, from the configuration of a denoiser.

    Raises:
        UserError: when `sample_size` is no side of a square, a number or a list of two equal ones.
    """
    found = config["sample_size"]
    height, width = found if isinstance(found, list | tuple) and len(found) == 2 else (found, found)
    if not isinstance(height, int) or isinstance(height, bool) or height != width or height < 1:
        raise UserError(f"{part}/{CONFIG}: sample_size must be the side of a square, found {shortened(found)}")
    return config["in_channels"], height, width


def require_numbers(file: Path, config: Mapping[str, Any], wanted: Mapping[str, tuple[int, str]]) -> None:
    """Compare numbers of a network with those of the other parts.

    Args:
        file: of the network's configuration.
        config: what it says.
        wanted: the number that each key must have, and where it is from.

    Raises:
        UserError: for the first that differs.
    """
    for key, (number, source) in wanted.items():
        if config[key] != number:
            raise UserError(f"{file}: {key} must be {number} as {source}, found {shortened(config[key])}")


def whole(file: Path, config: Mapping[str, Any], key: str) -> int:
    """Return a value that is a whole number above 0.

    Raises:
        UserError: when it is none.
    """
    found = config.get(key)
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise UserError(f"{file}: {key} must be a whole number above 0, found {shortened(found)}")
    return found


def number_above_0(file: Path, config: Mapping[str, Any], key: str) -> float:
    """Return a value that is a finite number above 0.

    Raises:
        UserError: when it is none.
    """
    found = config.get(key)
    if not isinstance(found, int | float) or isinstance(found, bool) or not 0 < found < math.inf:
        raise UserError(f"{file}: {key} must be a number above 0, found {shortened(found)}")
    return found
