"""A diffusers folder on disk: its parts, its JSON files, and their names."""

from pathlib import Path
from typing import Any

from quantbooth.runtime.errors import UserError
from quantbooth.store import documents
from quantbooth.store.documents import checked

__all__ = ["part_of", "read_json", "text_encoder_names", "tokenizer_names"]


def part_of(folder: Path, name: str) -> Path:
    """Return the folder of one part.

    Raises:
        UserError: when it is missing.
    """
    part = folder / name
    if not part.is_dir():
        raise UserError(f"{folder} is not a text-to-image model folder: {name}/ is missing; check base.path")
    return part


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of the folder.

    Raises:
        UserError: when it is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path.parent} is not a diffusers model folder: {path.name} is missing; check base.path")
    return checked(dict[str, Any], documents.read_json(path), str(path))


def text_encoder_names(count: int) -> list[str]:
    """Return diffusers' names of `count` text encoders: `text_encoder`, `text_encoder_2`, ..."""
    return _numbered("text_encoder", count)


def tokenizer_names(count: int) -> list[str]:
    """Return diffusers' names of `count` tokenizers: `tokenizer`, `tokenizer_2`, ..."""
    return _numbered("tokenizer", count)


def _numbered(name: str, count: int) -> list[str]:
    return [name if number == 1 else f"{name}_{number}" for number in range(1, count + 1)]
