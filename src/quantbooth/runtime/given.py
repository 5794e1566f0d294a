"""Config files of a given folder, such as --config-dir ARTIFACT, are data: values and ${option}, no setting of Hydra.

${oc.env:HOME} writes what the environment holds into artifacts, `hydra.job.env_set` changes it, and `hydra.launcher`
names any class. Hydra acts on them before options are checked, so the files are read first.
"""

import re
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from quantbooth.runtime.errors import UserError

__all__ = ["require_data"]

OPTION = re.compile(r"\$\{[.\w\[\]]+\}")
"""A reference to another option, ${base.path}; a resolver has a colon, a name that is put together another ${."""


def require_data(flags: Namespace) -> None:
    """Check what the flags of Hydra let it read.

    Raises:
        UserError: for a flag that reads a pickle or other configs, and for a file of --config-dir that holds more than
            data, naming what it holds.
    """
    if flags.experimental_rerun is not None:
        raise UserError("--experimental-rerun reads a pickle, which may run code; write the options instead")
    if flags.config_path is not None:
        raise UserError("--config-path replaces the configs of quantbooth; add yours by --config-dir")
    if flags.config_name is not None and {"..", "/"} & set(Path(flags.config_name).parts):
        raise UserError(f"--config-name must be a name, got {flags.config_name}; give its folder by --config-dir")
    if flags.config_dir is not None:
        _require_plain(Path(flags.config_dir))


def _require_plain(folder: Path) -> None:
    """Read the config files of a folder, without hidden ones, before Hydra does."""
    for file in sorted(folder.rglob("*.yaml")):
        inner = file.relative_to(folder)
        if any(part.startswith(".") for part in inner.parts):
            continue
        if not file.is_file():
            raise UserError(f"{file} must be a plain file; take it out of --config-dir")
        try:
            text = file.read_text(encoding="utf-8")
            found = next(_faults(inner, text, yaml.safe_load(text)), None)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError(f"{file} must be a config, found: {' '.join(str(error).split())}") from error
        if found:
            raise UserError(f"{file} of --config-dir must hold data, found {found}; write that on the command line")


def _faults(inner: Path, text: str, values: Any) -> Iterator[str]:
    """Yield what is set in Hydra, except the jobs of a sweep as in conf/experiment, and references to resolvers."""
    if "hydra" in inner.parts:
        yield "options of Hydra"
    for package in re.findall(r"(?m)^\s*#\s*@package\s+(.*)$", text):
        if "hydra" in package:
            yield f"the package {package}"
    values = values if isinstance(values, dict) else {}
    yield from (f"hydra{name}" for name in _settings(values.get("hydra", {})))
    yield from (f"the default {text}" for text in _texts(values.get("defaults")) if "hydra" in text or "@" in text)
    yield from (f"the reference {text!r:.60}" for text in _texts(values) if "${" in OPTION.sub("", text))


def _settings(given: Any) -> list[str]:
    """Return what is set in Hydra besides its mode and the values of a sweep."""
    match given:
        case {"sweeper": {"params": {**params}, **others}}:
            found = [
                *(f".sweeper.{key}" for key in others),
                *(f".sweeper.params.{key}" for key in params if "hydra" in str(key)),
            ]
        case {}:
            found = [".sweeper"] if "sweeper" in given else []
        case _:
            return [f": {given!r:.60}"]
    return found + [f".{key}" for key in given if key not in ("mode", "sweeper")]


def _texts(top: Any) -> Iterator[str]:
    """Yield the texts of keys and values, those behind an alias once."""
    seen, waiting = set[int](), [top]
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            yield node
        elif isinstance(node, dict | list) and id(node) not in seen:
            seen.add(id(node))
            waiting += [*node, *node.values()] if isinstance(node, dict) else node
