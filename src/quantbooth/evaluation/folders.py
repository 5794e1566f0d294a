"""A network of transformers from a folder: all weights that it needs, from safetensors, and a digest of its content."""

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from quantbooth.runtime.errors import UserError

__all__ = ["digest", "model_type", "read_network", "read_processor"]

Network = TypeVar("Network", bound=PreTrainedModel)
CONFIG = "config.json"
DIGITS = 12
DECIDING = ("*.json", "*.txt", "*.safetensors")
"""What decides a network's answers: numbers, preprocessing, tokenizer, weights; nothing that could run code."""


def model_type(folder: Path) -> str:
    """The architecture that a folder's configuration names.

    Raises:
        UserError: when there is no such folder, or it is none of transformers'.
    """
    file = folder / CONFIG
    if not file.is_file():
        found = f"a folder without {CONFIG}" if folder.is_dir() else "a file" if folder.exists() else "nothing"
        raise UserError(f"{folder} must be a folder that transformers' save_pretrained wrote, found {found}")
    try:
        return str(json.loads(file.read_text(encoding="utf-8")).get("model_type"))
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file} must be a configuration of transformers, found: {_first_line(error)}") from error


def read_network(kind: type[Network], folder: Path, spare: str = "", **options: Any) -> Network:
    """The network of a folder, frozen, in 32 bits.

    Weights whose names begin with `spare` may lie there unused; `options` are from_pretrained's.

    Raises:
        UserError: the folder is of another architecture, has no safetensors, or weights are missing or too many.
    """
    expected = kind.config_class.model_type
    if (found := model_type(folder)) != expected:
        raise UserError(f"{folder} must hold a {expected}, found a {found}")
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{folder} holds no safetensors; pickles may run code and are not read: save it by save_pretrained"
        )
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # it would list weights that are missing or spare, which is done below
    given = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32, **options}
    try:
        network, told = kind.from_pretrained(str(folder), output_loading_info=True, **given)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be read: {_first_line(error)}") from error
    lacking = sorted({*told["missing_keys"], *(mismatch[0] for mismatch in told["mismatched_keys"])})
    unread = sorted(name for name in told["unexpected_keys"] if not (spare and name.startswith(spare)))
    for names, fault in ((lacking, "lacks"), (unread, "has more than a network of its kind:")):
        if names:
            raise UserError(f"{folder} {fault} {names[0]} ({len(names)} such); save the whole network, and it alone")
    network.requires_grad_(False).eval()
    return network


def read_processor(kind: Any, folder: Path) -> Any:
    """What makes a network's input of pictures and words; it lies beside the weights.

    Raises:
        UserError: when it does not.
    """
    try:
        return kind.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder} must hold preprocessing (and tokenizer) too: {_first_line(error)}") from error


def digest(folder: Path) -> str:
    """Twelve digits of sha256 over names and content of all that decides the network's answers."""
    told = hashlib.sha256()
    for file in sorted({file for pattern in DECIDING for file in folder.rglob(pattern)}):
        with file.open("rb") as stream:
            told.update(
                f"{file.relative_to(folder).as_posix()} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode()
            )
    return told.hexdigest()[:DIGITS]


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(". ")
