"""The configuration files of a base with a unet: what `predict`, `encode_prompts` and the autoencoder honour.

Keys of the networks' architectures are diffusers' own matter: it builds the network, and weights fit or are refused.
Looked at here is what a pipeline does around the networks, and what the files must agree on:

    unet in_channels = out_channels = vae latent_channels
    unet cross_attention_dim        = sum of the text encoders' hidden sizes
    tokenizer model_max_length     <= the text encoder's max_position_embeddings
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel

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
from quantbooth.diffusion.scheduler_config import DDPM_KINDS
from quantbooth.runtime.errors import UserError

__all__ = ["AUTOENCODERS", "latent_shape", "require_supported"]

AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
INDEX = "model_index.json"
CONFIG = "config.json"
NONE = (None,)
UNET: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("class_embed_type", "num_class_embeds", "encoder_hid_dim", "encoder_hid_dim_type"), NONE),
    **{"time_cond_proj_dim": NONE, "attention_type": ("default",)},
}
"""Values without inputs that only other pipelines have: classes, image prompts, a guidance embedding, boxes."""
VAE: dict[str, tuple[Any, ...]] = {
    **{"in_channels": (3,), "out_channels": (3,), "latents_mean": NONE, "latents_std": NONE, "shift_factor": (None, 0)},
    **{"upsampling_scaling_factor": (2,), "upsample_fn": ("nearest", "nearest-exact", "bilinear", "bicubic", "area")},
}
MADE = ("block_out_channels",)
"""Of an AutoencoderTiny: those of its decoder."""
TEXT: dict[str, tuple[Any, ...]] = {"use_attention_mask": (False, None), "auto_map": NONE, "quantization_config": NONE}
CLIP = {"hidden_size": 512, "max_position_embeddings": 77, "projection_dim": 512}
"""Defaults of transformers' CLIPTextConfig."""
SIZES = 6
"""Numbers of SDXL's micro-conditioning."""
SWITCHES: dict[str, tuple[Any, ...]] = {"force_zeros_for_empty_prompt": (True, False), "add_watermarker": (False, None)}


def require_supported(
    folder: Path, pipeline: Any, texts: Sequence[tuple[Any, Any]], denoiser: Mapping[str, tuple[Any, ...]]
) -> tuple[dict[str, Any], int]:
    """Return the configuration of the unet, and the downsampling factor of the autoencoder.

    Args:
        folder: of the base.
        pipeline: diffusers' class of its pipeline.
        texts: transformers' classes of each text encoder and its tokenizer.
        denoiser: the supported values of keys of the unet that the family itself reads.

    Raises:
        UserError: naming the file, the key and its value that are not supported, or do not agree.
    """
    named = list(zip(text_encoder_names(len(texts)), tokenizer_names(len(texts)), strict=True))
    autoencoder = _require_index(folder / INDEX, pipeline, texts, named)
    unet = _config(folder, "unet", UNet2DConditionModel, {**UNET, **denoiser})
    vae = _config(folder, "vae", AUTOENCODERS[autoencoder], VAE)
    encoders = [_text_config(folder, *names) for names in named]
    _require_agreement(folder, unet, vae, encoders)
    return unet, 2 ** (_levels(folder, vae) - 1)


def latent_shape(unet: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return (channels, height, width) of the latents.

    Raises:
        UserError: when `sample_size` is no side of a square, a number or a list of two equal ones.
    """
    found = unet["sample_size"]
    height, width = found if isinstance(found, list | tuple) and len(found) == 2 else (found, found)
    if not isinstance(height, int) or isinstance(height, bool) or height != width or height < 1:
        raise UserError(f"unet/{CONFIG}: sample_size must be the side of a square, found {shortened(found)}")
    return unet["in_channels"], height, width


def _levels(folder: Path, vae: Mapping[str, Any]) -> int:
    """Return the number of resolutions of an autoencoder, the same in its encoder and its decoder."""
    sides = [key for key in ("encoder_block_out_channels", "decoder_block_out_channels") if key in vae]
    counts = set()
    for key in sides or ["block_out_channels"]:
        if not isinstance(found := vae[key], list | tuple) or not found:
            raise UserError(f"{folder}/vae/{CONFIG}: {key} must be a list of numbers, found {shortened(found)}")
        counts.add(len(found))
    if len(counts) > 1:
        raise UserError(f"{folder}/vae/{CONFIG}: {' and '.join(sides)} must be of one length, found {sorted(counts)}")
    return counts.pop()


def _whole(file: Path, config: Mapping[str, Any], key: str) -> int:
    found = config[key]
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise UserError(f"{file}: {key} must be a whole number above 0, found {shortened(found)}")
    return found


def _require_index(
    file: Path, pipeline: Any, texts: Sequence[tuple[Any, Any]], named: Sequence[tuple[str, str]]
) -> str:
    """Refuse unknown keys, and parts of other classes; return the class of the autoencoder."""
    index = read_json(file)
    require_known(file, index, pipeline)
    require_values(file, index, SWITCHES)
    expected: dict[str, Sequence[str]] = {"vae": list(AUTOENCODERS), "unet": [UNet2DConditionModel.__name__]}
    for (network, tokenizer), names in zip(texts, named, strict=True):
        classes = ([network.__name__], [tokenizer.__name__, f"{tokenizer.__name__}Fast"])
        expected.update(zip(names, classes, strict=True))
    for part, offered in {**expected, "scheduler": DDPM_KINDS}.items():
        if class_in(index, part) not in offered:
            wanted = ", ".join(offered[:2])
            raise UserError(f"{file}: {part} must be one of {wanted}, found {shortened(index.get(part))}")
    return str(class_in(index, "vae"))


def _config(folder: Path, part: str, kind: Any, allowed: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Return the configuration of a network of diffusers, with its defaults."""
    file = part_of(folder, part) / CONFIG
    found = read_json(file)
    require_known(file, found, kind, MADE)
    require_values(file, found, {"_class_name": (kind.__name__,)})
    defaults = {name: parameter.default for name, parameter in inspect.signature(kind.__init__).parameters.items()}
    filled = {**defaults, **found}
    require_values(file, filled, allowed)
    return filled


def _text_config(folder: Path, network: str, tokenizer: str) -> dict[str, int]:
    """Return numbers of a text encoder whose tokenizer fits it."""
    file, words = part_of(folder, network) / CONFIG, part_of(folder, tokenizer) / "tokenizer_config.json"
    whole, about = read_json(file), read_json(words)
    require_values(file, whole, TEXT)
    require_values(words, about, {"auto_map": NONE})
    inner = whole.get("text_config")
    found = {**CLIP, **(inner if isinstance(inner, dict) else whole)}
    numbers = {key: _whole(file, found, key) for key in CLIP}
    length, most = about.get("model_max_length"), numbers["max_position_embeddings"]
    if not isinstance(length, int) or not 3 <= length <= most:
        raise UserError(
            f"{words}: model_max_length must be 3 to max_position_embeddings = {most} of {network}/, found "
            f"{shortened(length)}"
        )
    return {**numbers, "model_max_length": length}


def _require_agreement(
    folder: Path, unet: Mapping[str, Any], vae: Mapping[str, Any], encoders: Sequence[Mapping[str, int]]
) -> None:
    """Refuse parts that do not fit each other."""
    file, channels = folder / "unet" / CONFIG, _whole(folder / "vae" / CONFIG, vae, "latent_channels")
    width = sum(encoder["hidden_size"] for encoder in encoders)
    wanted = {
        "in_channels": (channels, "latent_channels of vae/"),
        "out_channels": (channels, "latent_channels of vae/"),
        "cross_attention_dim": (width, "the hidden sizes of its text encoders"),
    }
    if unet["addition_embed_type"] == "text_time":
        numbers = SIZES * _whole(file, unet, "addition_time_embed_dim") + encoders[-1]["projection_dim"]
        wanted["projection_class_embeddings_input_dim"] = (numbers, "6 sizes and the pooled embedding")
    for key, (number, source) in wanted.items():
        found = unet[key]
        if any(one != number for one in (found if isinstance(found, list | tuple) else [found])):
            raise UserError(f"{file}: {key} must be {number} as {source}, found {shortened(found)}")
    if len({encoder["model_max_length"] for encoder in encoders}) > 1:
        raise UserError(f"{folder}: model_max_length must be the same in tokenizer/ and tokenizer_2/")
    scale = vae["scaling_factor"]
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 < scale < math.inf:
        raise UserError(f"{folder}/vae/{CONFIG}: scaling_factor must be a number above 0, found {shortened(scale)}")
