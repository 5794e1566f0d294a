"""Conversion of Hydra configs to plain values and objects."""

import os
import re
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import hydra
import hydra.utils
import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from quantbooth.runtime.errors import UserError
from quantbooth.runtime.hydra_versions import BASE, allowing, key_of

__all__ = ["build", "choices", "composed", "conf_dir", "is_own", "plain", "save"]

Kind = TypeVar("Kind")
MISTAKES = (UserError, TypeError, ValueError, OSError, ImportError)
"""Errors of a constructor for a wrong option; any other error is a bug and keeps its traceback."""


TRUST = "QUANTBOOTH_TRUST"
"""Environment variable: packages, separated by commas, whose classes and functions a config may name as well."""
TRACKERS = "lightning.pytorch.loggers"


def conf_dir() -> Path:
    """Return the folder of config groups: quantbooth/conf in a wheel, conf/ at the top of a repository.

    Raises:
        UserError: when neither exists.
    """
    package = Path(__file__).parents[1]
    candidates = (package / "conf", package.parents[1] / "conf")
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise UserError(f"the configuration must be in {candidates[0]} or {candidates[1]}, found neither; install again")


def choices(group: Path) -> list[str]:
    """Return the choices of a config group; files that begin with an underscore are shared parts, not choices."""
    return sorted(file.stem for file in group.glob("[!_]*.yaml"))


def composed(group: str, choice: str) -> DictConfig:
    """Compose one choice of a group alone, from the search path of the running command, if any.

    Raises:
        hydra.errors.MissingConfigException: for a choice that the group does not have.
    """
    wanted = [f"+{group}={choice}"]
    if GlobalHydra.instance().is_initialized():
        known = _composed.setdefault(GlobalHydra.instance().config_loader(), {})
        if wanted[0] not in known:
            known[wanted[0]] = hydra.compose(overrides=wanted)
        return deepcopy(known[wanted[0]])
    with hydra.initialize_config_dir(str(conf_dir()), **BASE):
        return hydra.compose(overrides=wanted)


_composed: WeakKeyDictionary[ConfigLoader, dict[str, DictConfig]] = WeakKeyDictionary()
"""What was composed, by the search path: a sweep of several subjects asks for the same in every job."""


def build(node: DictConfig | None, kind: type[Kind], **extras: Any) -> Kind:
    """Instantiate `node._target_` with the node's other keys and `extras`.

    Lists and mappings are passed as plain lists and dicts. A `_target_` is called only where the package's own configs
    name it, where it is one of Lightning's loggers, or of a package that the environment trusts: configs are data.

    Raises:
        UserError: for another `_target_`, also inside the node; when the constructor refuses its arguments, does not
            exist, or does not return a `kind`.
    """
    where = _where(node)
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise UserError(f"{where} must name a {kind.__name__} by _target_, got {_keys(node)}")
    targets = list(_targets(node, where))
    for option, target in targets:
        if not _is_trusted(target):
            raise UserError(
                f"{option}._target_ must be a class that the configs of quantbooth name, got {target}; to allow a "
                f"package of yours, set the environment variable {TRUST}=PACKAGE"
            )
    try:
        given = allowing(target for _, target in targets) | extras
        made = hydra.utils.instantiate(node, _convert_="all", **given)  # "all" makes dicts of dataclass extras
    except InstantiationException as error:
        if isinstance(error.__cause__, MISTAKES):
            raise UserError(_refusal(str(error), error.__cause__, node)) from error
        raise
    except MISTAKES as error:  # Hydra 1.4 leaves the constructor's own error, with a note of its key
        key = key_of(error) or where
        raise UserError(_refusal(f"target '{dict(targets).get(key)}' full_key: {key}", error, node)) from error
    if not isinstance(made, kind):
        raise UserError(f"{where} must be a {kind.__name__}, got a {type(made).__name__} from {node._target_}")
    return made


def _targets(node: Any, where: str) -> Iterator[tuple[str, str]]:
    """Yield where each `_target_` of a node stands, and what it names."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield where, str(node._target_)
        children: Any = ((str(key), node[key]) for key in node if not OmegaConf.is_missing(node, key))
    elif OmegaConf.is_list(node):
        children = ((str(index), child) for index, child in enumerate(node))
    else:
        return
    for key, child in children:
        yield from _targets(child, f"{where}.{key}")


def is_own(target: str) -> bool:
    """Return whether the package's configs name a class or function."""
    return target in _own_targets()


def _is_trusted(target: str) -> bool:
    if is_own(target):
        return True
    packages = (TRACKERS, *filter(None, os.environ.get(TRUST, "").replace(" ", "").split(",")))
    package = next((one for one in packages if target.startswith(f"{one}.")), None)
    if package is None:
        return False
    try:
        found = hydra.utils.get_object(target)
    except Exception:
        return True  # instantiate says why it cannot be imported
    # a module of the package may hold others: package.module.os.system is not its own
    return callable(found) and f"{getattr(found, '__module__', '')}.".startswith(f"{package}.")


@cache
def _own_targets() -> frozenset[str]:
    """Return every `_target_` in the package's configs."""
    texts = (file.read_text(encoding="utf-8") for file in conf_dir().rglob("*.yaml"))
    return frozenset(target for text in texts for target in re.findall(r"_target_: *([\w.]+)", text))


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return the config as dicts, lists, strings and numbers, with every interpolation resolved.

    Raises:
        omegaconf.errors.OmegaConfBaseException: for a mandatory value that is missing; the command line explains it.
    """
    values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    if not isinstance(values, dict):
        raise TypeError(f"a config must be a mapping, got {type(values).__name__}")
    return {str(key): value for key, value in values.items()}


def save(cfg: DictConfig, path: Path) -> None:
    """Write the resolved config as YAML."""
    path.write_text(yaml.safe_dump(plain(cfg), sort_keys=False, allow_unicode=True), encoding="utf-8")


def _where(node: Any) -> str:
    key = node._get_full_key(None) if OmegaConf.is_config(node) else ""
    return str(key) or "the config"


def _keys(node: Any) -> str:
    return f"only {', '.join(map(str, node))}" if isinstance(node, DictConfig) and len(node) else repr(node)


def _refusal(error: str, cause: BaseException, node: DictConfig) -> str:
    """Return one sentence about a constructor's error, with the nested target and the key from Hydra's message."""
    target = re.search(r"target '([^']+)'", error)
    nested = re.search(r"full_key: (\S+)", error)
    where = nested[1] if nested else _where(node)
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(cause))
    if unknown and where == _where(node) and unknown[1] in node:
        return f"unknown option '{where}.{unknown[1]}'; {target[1] if target else 'its class'} does not take it"
    text = " ".join(str(cause).split())
    if not isinstance(cause, UserError) and target:
        text = f"cannot build {target[1]}: {text}"
    named = re.search(rf"\b{re.escape(where)}\b", text)
    return text if named else f"{text}, from {where}"
