"""What Hydra 1.3 and 1.4 call differently, so that the same code runs on both without a warning.

Hydra 1.4 deprecates `version_base` and targets that its caller does not allow; OmegaConf 2.4 renames a function.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from omegaconf import OmegaConf

__all__ = ["BASE", "allowing", "key_of", "register", "with_mode"]

KEY = "full_key: "
NEW = tuple(int(part) for part in hydra.__version__.split(".")[:2]) >= (1, 4)
BASE: dict[str, Any] = {} if NEW else {"version_base": "1.3"}
"""Keywords of hydra.main and hydra.initialize_config_dir."""


def allowing(targets: Iterable[str]) -> dict[str, Any]:
    """Return the keyword of hydra.utils.instantiate that allows targets, which were checked, and nothing of others.

    Hydra looks at the place where a target is defined too, which is another module of its package.
    """
    names = {name for target in targets for name in (target, f"{target.partition('.')[0]}.*")}
    return {"_execution_whitelist_": sorted(names)} if NEW else {}


def key_of(error: BaseException) -> str | None:
    """Return the option whose constructor raised an error, as Hydra 1.4 notes it."""
    notes = (str(note) for note in getattr(error, "__notes__", ()))
    return next((note.partition(KEY)[2].strip() for note in notes if KEY in note), None)


def with_mode(words: Sequence[str], folder: Path) -> list[str]:
    """Return the words of a command line with the mode of their experiment or search, which Hydra 1.4 must know before.

    Args:
        words: of the command line.
        folder: of the configs.
    """
    asked = [match for word in words if (match := re.fullmatch(r"\+{0,2}(experiment|search)=(\w+)", word))]
    files = [file for match in asked if (file := folder / match[1] / f"{match[2]}.yaml").is_file()]
    modes = [(yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("hydra", {}).get("mode") for file in files]
    known = any(word in ("-m", "--multirun") or word.startswith("hydra.mode=") for word in words)
    return [*words, *dict.fromkeys(f"hydra.mode={mode}" for mode in modes if NEW and mode and not known)]


def register(name: str, resolver: Callable[..., object]) -> None:
    """Define ${name:} in configs; each config asks once."""
    add: Any = OmegaConf.register_resolver if NEW else OmegaConf.register_new_resolver  # the former was another one
    add(name, resolver, replace=True, use_cache=True)
