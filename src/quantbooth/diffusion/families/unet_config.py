"""The configuration files of a base with a unet: what `predict`, `encode_prompts` and the autoencoder honour.

Keys of the networks' architectures are diffusers' own matter: it builds the network, and weights fit or are refused.
Looked at here is what a pipeline does around the networks, and what the files must agree on:

    unet in_channels = out_channels = vae latent_channels
    unet cross_attention_dim        = sum of the text encoders' hidden sizes
    tokenizer model_max_length     <= the text encoder's max_position_embeddings
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel

from quantbooth.diffusion.diffusers_folder import shortened, text_encoder_names, tokenizer_names
from quantbooth.diffusion.families.folder_config import (
    CONFIG,
    Parts,
    clip_config,
    levels,
    network_config,
    number_above_0,
    require_index,
    whole,
)
from quantbooth.diffusion.model import AUTOENCODERS
from quantbooth.diffusion.scheduler_config import DDPM_KINDS
from quantbooth.runtime.errors import UserError

__all__ = ["require_supported"]

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
    named = zip(text_encoder_names(len(texts)), tokenizer_names(len(texts)), strict=True)
    kinds = Parts(pipeline, "unet", (UNet2DConditionModel.__name__,), AUTOENCODERS, texts, DDPM_KINDS, SWITCHES)
    autoencoder = require_index(folder, kinds)
    unet = network_config(folder, "unet", UNet2DConditionModel, {**UNET, **denoiser})
    vae = network_config(folder, "vae", autoencoder, VAE)
    encoders = [clip_config(folder, *names) for names in named]
    _require_agreement(folder, unet, vae, encoders)
    return unet, 2 ** (levels(folder, vae) - 1)


def _require_agreement(
    folder: Path, unet: Mapping[str, Any], vae: Mapping[str, Any], encoders: Sequence[Mapping[str, int]]
) -> None:
    """Refuse parts that do not fit each other."""
    file, channels = folder / "unet" / CONFIG, whole(folder / "vae" / CONFIG, vae, "latent_channels")
    width = sum(encoder["hidden_size"] for encoder in encoders)
    wanted = {
        "in_channels": (channels, "latent_channels of vae/"),
        "out_channels": (channels, "latent_channels of vae/"),
        "cross_attention_dim": (width, "the hidden sizes of its text encoders"),
    }
    if unet["addition_embed_type"] == "text_time":
        numbers = SIZES * whole(file, unet, "addition_time_embed_dim") + encoders[-1]["projection_dim"]
        wanted["projection_class_embeddings_input_dim"] = (numbers, "6 sizes and the pooled embedding")
    for key, (number, source) in wanted.items():
        found = unet[key]
        if any(one != number for one in (found if isinstance(found, list | tuple) else [found])):
            raise UserError(f"{file}: {key} must be {number} as {source}, found {shortened(found)}")
    if len({encoder["model_max_length"] for encoder in encoders}) > 1:
        raise UserError(f"{folder}: model_max_length must be the same in tokenizer/ and tokenizer_2/")
    number_above_0(folder / "vae" / CONFIG, vae, "scaling_factor")
