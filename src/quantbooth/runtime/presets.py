"""Typed options that contradict a preset or an experiment: a line says which is taken."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

__all__ = ["contradicted"]


def contradicted(words: Sequence[str], folder: Path) -> Iterator[str]:
    """Yield a line for each typed option that has another value than in the preset of the command line or its recipe.

    And one for each value that an experiment has for a group, where the typed choice of the group has another.

    Args:
        words: of the command line.
        folder: of the configs.
    """
    typed = dict(word.lstrip("+").split("=", 1) for word in words if "=" in word)
    recipe = dict(_read(folder / "experiment" / f"{typed.get('experiment')}.yaml"))
    for name in typed.get("preset", str(recipe.get("preset", ""))).split(","):
        for option, value in _read(folder / "preset" / f"{name}.yaml"):
            if option in typed and option not in recipe and _value(typed[option]) != value:
                preset = str(value).lower()
                yield f"preset={name} has {option}={preset}; {option}={typed[option]} was typed and is taken"
    for group, choices in typed.items():
        for choice in choices.split(",") if (folder / group).is_dir() else ():
            own = {f"{group}.{option}": value for option, value in _choice(folder / group / f"{choice}.yaml")}
            for option in sorted((own.keys() & recipe.keys()) - typed.keys()):
                if own[option] != (value := recipe[option]):
                    yield (
                        f"experiment={typed['experiment']} has {option}={value}, which is taken; {group}={choice} has "
                        f"{own[option]}: type {option} to choose"
                    )


def _read(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield the options of a config file, if there is one."""
    return _options(_node(file), "")


def _choice(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield the options of a choice of a group after those of the choices that it builds on; not what all share."""
    for base in _node(file).get("defaults", ()):
        if isinstance(base, str) and not base.startswith("_"):
            yield from _choice(file.with_name(f"{base}.yaml"))
    yield from _read(file)


def _node(file: Path) -> dict[str, Any]:
    """Return a config file; empty if there is none, or one that Hydra will refuse by its name."""
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _value(typed: str) -> object:
    """Return a typed value as in a config file: 8 is 8.0, True is true."""
    try:
        return yaml.safe_load(typed)
    except yaml.YAMLError:
        return typed


def _options(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if key == "defaults":
            for choice in (one for one in value if isinstance(one, Mapping)):
                yield from ((name.removeprefix("override /"), chosen) for name, chosen in choice.items())
        elif isinstance(value, Mapping):
            yield from _options(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
