"""Bases on disk: standard diffusers pipeline folders in safetensors, read and written without running their code."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from quantbooth.diffusion.base import Base, frozen
from quantbooth.diffusion.diffusers_folder import part_of, read_json, text_encoder_names, tokenizer_names
from quantbooth.diffusion.families.registry import family_in
from quantbooth.diffusion.model import Family, TextEncoder
from quantbooth.diffusion.prompt_length import require_whole
from quantbooth.diffusion.scheduler_config import read_scheduler_config
from quantbooth.diffusion.stored import read_stored, require_stored, stored_by
from quantbooth.diffusion.streamed import streamed_weights
from quantbooth.diffusion.weights import cast_module, first_line, read_network, readable
from quantbooth.runtime.errors import UserError

__all__ = [
    "as_pipeline",
    "autoencoder_class",
    "check_base",
    "check_sampler",
    "denoiser_by_layers",
    "empty_denoiser",
    "file_bytes",
    "load_base",
    "new_autoencoder",
    "read_denoiser",
    "read_tokenizers",
    "save_base",
]

WEIGHTS = (".safetensors", ".gguf")


def new_autoencoder(config: dict[str, Any]) -> AutoencoderTiny:
    """Return a small autoencoder of this configuration with random weights."""
    return AutoencoderTiny.from_config(config)


def empty_denoiser(folder: Path) -> Any:
    """Return the denoiser of a base on the meta device, without weights.

    Raises:
        UserError: when no network can be made of its configuration.
    """
    family = family_in(folder)
    part = part_of(folder, family.component)
    with readable(part), torch.device("meta"):
        return family.new_denoiser(family.denoiser_class.load_config(str(part)))


def check_base(folder: Path, resolution: int, timesteps: int, as_stored: bool = False) -> None:
    """Compare a base with its options by its configuration files alone.

    Args:
        folder: of the base.
        resolution: base.resolution, the side of pictures.
        timesteps: base.timesteps.
        as_stored: whether it is quantized already, quant=as_stored.

    Raises:
        UserError: when it is no base that is supported, of another side or number of timesteps, or not so quantized.
    """
    family = family_in(folder)
    found = family.examine(folder)
    require_stored(part_of(folder, family.component), as_stored)
    if found.side != resolution:
        raise UserError(
            f"base.resolution must be {found.side}, the side of the pictures of {folder} (sample_size = "
            f"{found.latents[-1]} latents of its {family.component}), got {resolution}"
        )
    if found.timesteps != timesteps:
        raise UserError(f"base.timesteps must be {found.timesteps}, got {timesteps}")


def check_sampler(folder: Path, name: str, steps: int) -> None:
    """Make a scheduler of a base once, before any work.

    Raises:
        UserError: when the base's family does not have it, or it cannot honour the base's configuration.
    """
    family = family_in(folder)
    family.new_scheduler(name, read_scheduler_config(folder), steps, family.examine(folder).latents)


def file_bytes(folder: Path) -> int:
    """Return the bytes of a base's float denoiser at 32 bits, for any precision and number of its files.

    Of a denoiser that another package quantized, return those of its files.
    """
    part = part_of(folder, family_in(folder).component)
    if stored_by(part) is not None:
        return sum(file.stat().st_size for file in part.iterdir() if file.suffix in WEIGHTS)
    return 4 * sum(weight.numel() for weight in empty_denoiser(folder).state_dict().values())


def load_base(folder: Path, name: str, denoiser: nn.Module | None = None, texts: bool = True) -> Base:
    """Load a base from a diffusers folder, in float32, frozen, offline.

    Args:
        folder: has ``model_index.json``, the denoiser's folder (``unet/``), ``vae/``, ``text_encoder/``,
            ``tokenizer/``, ``scheduler/``, and of families with two encoders ``text_encoder_2/`` and ``tokenizer_2/``.
        name: the base's label in tables and figures.
        denoiser: replaces the folder's float denoiser, which is then not read.
        texts: whether text encoders are read.

    Raises:
        UserError: when a part is missing or damaged, or the model's family is not supported.
    """
    diffusers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()  # diffusers warns about its own config keys
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # and transformers reports missing weights, which are refused
    kind, family = autoencoder_class(folder), family_in(folder)
    family.examine(folder)
    try:
        return _assemble(folder, name, family, kind, denoiser, texts)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder} cannot be read as a base: {str(error).strip().splitlines()[0]}") from error


def denoiser_by_layers(folder: Path, name: str) -> tuple[Base, Callable[[str], None]]:
    """Return a base that has a denoiser alone, and what reads a layer's weights, or with "" all that are left.

    Where the weights cannot be read by layers, they are in memory already.

    Raises:
        UserError: as `load_base`.
    """
    diffusers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    family = family_in(folder)
    family.examine(folder)
    part = part_of(folder, family.component)
    empty = empty_denoiser(folder).requires_grad_(False)
    with readable(part):
        found = streamed_weights(empty, part)
    denoiser = read_network(family.denoiser_class, part) if found is None else empty
    read = (lambda _: None) if found is None else partial(found.fill_, denoiser)
    base = Base(name, family, denoiser.requires_grad_(False).eval(), None, (), read_scheduler_config(folder))
    return base, read


def autoencoder_class(folder: Path) -> Any:
    """Return diffusers' class of a base's autoencoder.

    Raises:
        UserError: when it is not supported.
    """
    kind = read_json(folder / "model_index.json").get("vae", [None, None])[1]
    offered = family_in(folder).autoencoders
    if kind not in offered:
        raise UserError(f"{folder}: the autoencoder must be one of {', '.join(offered)}, found {kind!r}")
    return offered[kind]


def read_denoiser(folder: Path) -> Any:
    """Return the denoiser of a base, in float32, or as another package quantized it.

    Raises:
        UserError: when it is missing or damaged.
    """
    family = family_in(folder)
    part = part_of(folder, family.component)
    if (package := stored_by(part)) is not None:
        return read_stored(family.denoiser_class, part, package)
    return read_network(family.denoiser_class, part)


def _assemble(
    folder: Path, name: str, family: Family, autoencoder: Any, denoiser: nn.Module | None, texts: bool
) -> Base:
    return frozen(
        Base(
            name=name,
            family=family,
            denoiser=read_denoiser(folder) if denoiser is None else denoiser,
            autoencoder=read_network(autoencoder, part_of(folder, "vae")),
            encoders=_encoders(folder, family) if texts else (),
            scheduler_config=read_scheduler_config(folder),
        )
    )


def _encoders(folder: Path, family: Family) -> tuple[TextEncoder, ...]:
    names = text_encoder_names(len(family.text_classes))
    networks = [network for network, _ in family.text_classes]
    return tuple(
        _encoder(part_of(folder, name), network, tokenizer, "auto" if network in family.large_texts else torch.float32)
        for name, network, tokenizer in zip(names, networks, read_tokenizers(folder), strict=True)
    )


@cache
def read_tokenizers(folder: Path) -> tuple[Any, ...]:
    """Return the tokenizers of a base, once a process and without its weights.

    Raises:
        UserError: when one is missing or damaged.
    """
    classes = family_in(folder).text_classes
    places = [part_of(folder, name) for name in tokenizer_names(len(classes))]
    return tuple(_tokenizer(kind, place) for (_, kind), place in zip(classes, places, strict=True))


def _tokenizer(kind: Any, folder: Path) -> Any:
    try:
        tokenizer = kind.from_pretrained(str(folder), local_files_only=True)
        require_whole([tokenizer], ["a"])  # without files it has no words, and transformers says nothing
    except UserError:
        raise
    except Exception as error:  # its readers raise plain exceptions
        raise UserError(f"{folder} cannot be read: {first_line(error)}") from error
    return tokenizer


def _encoder(folder: Path, network: Any, tokenizer: Any, dtype: torch.dtype | str) -> TextEncoder:
    encoder = TextEncoder(read_network(network, folder, dtype=dtype), tokenizer)
    if len(tokenizer) > (most := encoder.network.config.get_text_config().vocab_size):
        raise UserError(
            f"the tokenizer of {folder.parent} has {len(tokenizer)} tokens, more than vocab_size = {most} beside it"
        )
    return encoder


def save_base(base: Base, folder: Path, dtype: torch.dtype, option: str = "export.precision") -> None:
    """Write a base as a diffusers folder that plain ``DiffusionPipeline.from_pretrained`` loads.

    Raises:
        UserError: when a weight is too large for the precision, naming the option that chooses it.
    """
    denoiser, autoencoder = (cast_module(part, dtype, option) for part in (base.denoiser, base.autoencoder))
    encoders = tuple(replace(one, network=cast_module(one.network, dtype, option)) for one in base.encoders)
    pipeline = as_pipeline(replace(base, denoiser=denoiser, autoencoder=autoencoder, encoders=encoders))
    for module in (denoiser, autoencoder):
        module.register_to_config(_name_or_path="")  # diffusers would write the path it was loaded from
    pipeline.save_pretrained(str(folder), safe_serialization=True)


def as_pipeline(base: Base) -> Any:
    """Return the base as a diffusers pipeline, without a safety checker.

    Where text encoders keep a precision of their own, the denoiser gets their embeddings, and latents that the pipeline
    made like them, in its own.
    """
    if any(encoder.dtype != base.autoencoder.dtype for encoder in base.text_encoders):
        base.denoiser.register_forward_pre_hook(_inputs_like_weights, with_kwargs=True)
    count = len(base.encoders)
    parts: Mapping[str, Any] = {
        "vae": base.autoencoder,
        base.component: base.denoiser,
        **dict(zip(text_encoder_names(count), base.text_encoders, strict=True)),
        **dict(zip(tokenizer_names(count), (encoder.tokenizer for encoder in base.encoders), strict=True)),
    }
    return base.family.pipeline(parts, base.scheduler_config)


def _inputs_like_weights(denoiser: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the arguments of a denoiser's call, with tensors of floats, and lists of them, in its precision."""

    def like(given: Any) -> Any:
        if isinstance(given, list):
            return [like(one) for one in given]
        return given.to(denoiser.dtype) if isinstance(given, Tensor) and given.is_floating_point() else given

    named = {name: value if name == "timestep" else like(value) for name, value in kwargs.items()}
    return tuple(map(like, args)), named
