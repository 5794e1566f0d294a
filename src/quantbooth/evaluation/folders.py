"""Networks from folders in transformers' format: weights from safetensors only, and a digest of the content."""

import hashlib
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from quantbooth.diffusion import weights
from quantbooth.runtime.errors import UserError
from quantbooth.store.documents import read_as

__all__ = ["digest", "model_type", "read_network", "read_processor"]

Network = TypeVar("Network", bound=PreTrainedModel)
CONFIG = "config.json"
DIGITS = 12
DECIDING = ("*.json", "*.txt", "*.safetensors")
"""Files that decide a network's outputs: configuration, preprocessing, tokenizer, weights; none can run code."""


def model_type(folder: Path) -> str:
    """Return the architecture in a folder's configuration.

    Raises:
        UserError: when the folder does not exist, or has another format.
    """
    file = folder / CONFIG
    if not file.is_file():
        found = f"a folder without {CONFIG}" if folder.is_dir() else "a file" if folder.exists() else "nothing"
        raise UserError(f"{folder} must be a folder that transformers' save_pretrained wrote, found {found}")
    return str(read_as(dict[str, Any], file).get("model_type"))


def read_network(kind: type[Network], folder: Path, spare: str = "", **options: Any) -> Network:
    """Return the network of a folder, frozen, in float32.

    Unused weights are allowed if their names begin with `spare`; `options` are those of `from_pretrained`.

    Raises:
        UserError: when the folder is of another architecture, has no safetensors, or has missing or unexpected weights.
    """
    expected = kind.config_class.model_type
    if (found := model_type(folder)) != expected:
        raise UserError(f"{folder} must hold a {expected}, found a {found}")
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{folder} has no safetensors; pickles may run code and are not read: save it with save_pretrained"
        )
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # it would list missing and unused weights, which is done below
    network: Network = weights.read_network(
        kind, folder, (spare,) if spare else (), **{"dtype": torch.float32, **options}
    )
    return network.requires_grad_(False).eval()


def read_processor(kind: Any, folder: Path) -> Any:
    """Return the processor in a network's folder.

    Raises:
        UserError: when it is missing.
    """
    try:
        return kind.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder} must hold preprocessing (and tokenizer) too: {_first_line(error)}") from error


def digest(folder: Path) -> str:
    """Return twelve digits of sha256 over the names and content of all files that decide the network's outputs."""
    content = hashlib.sha256()
    for file in sorted({file for pattern in DECIDING for file in folder.rglob(pattern)}):
        with file.open("rb") as stream:
            content.update(
                f"{file.relative_to(folder).as_posix()} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode()
            )
    return content.hexdigest()[:DIGITS]


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(". ")
