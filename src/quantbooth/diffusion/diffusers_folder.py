"""A diffusers folder on disk: its parts, their names, and its JSON files, whose keys are known or refused by name."""

import inspect
import json
import math
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from quantbooth.runtime.errors import UserError

__all__ = [
    *("class_in", "part_of", "read_json", "require_known", "require_values", "text_encoder_names"),
    "tokenizer_names",
]

MOST_BYTES = 8 << 20
"""Of a configuration file; those of diffusers have some thousands."""
ENDLESS = "lambda_min_clipped"
"""The only number of diffusers that may be infinite: it is so by default."""


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
        UserError: when it is missing, damaged or huge, is no object, has a key twice or a number that is not finite.
    """
    if not path.is_file():
        raise UserError(f"{path.parent} is not a diffusers model folder: {path.name} is missing; check base.path")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise UserError(f"{path} must have at most {MOST_BYTES} bytes, found {size}; take another copy of the file")
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=partial(_object, path))
    except (ValueError, RecursionError, OSError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} must hold a JSON object, found {shortened(found)}")
    return found


def _object(path: Path, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise UserError(f"{path} must say {shortened(key)} once, found it twice")
        numbers = value if isinstance(value, list) else [value]
        if key != ENDLESS and any(isinstance(one, float) and not math.isfinite(one) for one in numbers):
            raise UserError(f"{path}: {shortened(key)} must be finite, found nan or infinity")
        made[key] = value
    return made


def require_known(path: Path, config: Mapping[str, Any], kind: Any, made: Collection[str] = ()) -> None:
    """Refuse keys that diffusers' class does not take, which it would pass over; private ones (`_name`) are its own.

    Args:
        path: of the file.
        config: what it says.
        kind: the class.
        made: further keys, which the class writes itself.

    Raises:
        UserError: naming the file, the first such key and its value.
    """
    known = inspect.signature(kind.__init__).parameters
    for key, value in config.items():
        if key not in known and key not in made and not key.startswith("_"):
            raise UserError(
                f"{path} says {shortened(key)} = {shortened(value)}, which {kind.__name__} does not have; "
                "choose a base without it"
            )


def require_values(path: Path, config: Mapping[str, Any], allowed: Mapping[str, Collection[Any]]) -> None:
    """Refuse values that are not supported; an absent key has diffusers' default, which is.

    Raises:
        UserError: naming the file, the first such key and its value.
    """
    for key, values in allowed.items():
        if key in config and config[key] not in values:
            offered = " or ".join(json.dumps(value) for value in values)
            raise UserError(f"{path}: {key} must be {offered} to be supported, found {shortened(config[key])}")


def class_in(index: Mapping[str, Any], part: str) -> str | None:
    """Return the class that `model_index.json` names for a part, such as `["diffusers", "AutoencoderKL"]`."""
    match index.get(part):
        case [str(), str(name)]:
            return name
    return None


def shortened(value: Any) -> str:
    """Return a value of a file as it is shown in a message."""
    shown = json.dumps(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def text_encoder_names(count: int) -> list[str]:
    """Return diffusers' names of `count` text encoders: `text_encoder`, `text_encoder_2`, ..."""
    return _numbered("text_encoder", count)


def tokenizer_names(count: int) -> list[str]:
    """Return diffusers' names of `count` tokenizers: `tokenizer`, `tokenizer_2`, ..."""
    return _numbered("tokenizer", count)


def _numbered(name: str, count: int) -> list[str]:
    return [name if number == 1 else f"{name}_{number}" for number in range(1, count + 1)]
