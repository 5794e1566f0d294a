"""Typed options that contradict a preset: the typed one is taken, and a line says so."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

__all__ = ["contradicted"]


def contradicted(words: Sequence[str], folder: Path) -> Iterator[str]:
    """Yield a line for each typed option that has another value than in the preset of the same command line.

    Args:
        words: of the command line.
        folder: of the configs.
    """
    typed = dict(word.lstrip("+").split("=", 1) for word in words if "=" in word)
    for name in typed.get("preset", "").split(","):
        if (file := folder / "preset" / f"{name}.yaml").is_file():
            for option, value in _options(yaml.safe_load(file.read_text(encoding="utf-8")), ""):
                preset = str(value).lower()
                if option in typed and typed[option].strip("'\"").lower() != preset:
                    yield f"preset={name} has {option}={preset}; {option}={typed[option]} was typed and is taken"


def _options(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if key == "defaults":
            for choice in value:
                yield from ((name.removeprefix("override /"), chosen) for name, chosen in choice.items())
        elif isinstance(value, Mapping):
            yield from _options(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
