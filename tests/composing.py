"""A configuration as the command line composes it: composing takes a tenth of a second, a copy a fiftieth of that.

Configurations that differ in values alone are copies of one, in which the values are set as Hydra sets them.
"""

import re
from copy import deepcopy
from functools import lru_cache

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from quantbooth.runtime.config import conf_dir
from quantbooth.runtime.hydra_versions import BASE

__all__ = ["GIVEN", "composed", "filled"]

GIVEN = ("base.path", "subject.path", "subject.class_word", "timesteps.path")
"""Options that a person must give where they have no value."""


def composed(*overrides: str, name: str = "quantbooth") -> DictConfig:
    """Return the configuration of a command with overrides, the caller's own."""
    values = [word for word in overrides if _is_value(word)]
    cfg = deepcopy(_composed(name, tuple(word for word in overrides if word not in values)))
    try:
        for one in OverridesParser.create().parse_overrides(values):
            OmegaConf.update(cfg, one.key_or_group, one.value(), merge=True)
    except OmegaConfBaseException:
        return _composed.__wrapped__(name, overrides)  # which raises what Hydra raises
    return cfg


def _is_value(word: str) -> bool:
    """Tell values from choices of a group, additions, deletions, and the options of Hydra."""
    key = word.partition("=")[0]
    return re.fullmatch(r"(?!hydra\b)\w[\w.]*", key) is not None and not (conf_dir() / key).is_dir()


@lru_cache(maxsize=256)
def _composed(name: str, overrides: tuple[str, ...]) -> DictConfig:
    with hydra.initialize_config_dir(str(conf_dir()), **BASE):
        return hydra.compose(name, list(overrides))


def filled(cfg: DictConfig) -> DictConfig:
    """Give a word to each option of GIVEN that misses its value."""
    for missing in GIVEN:
        group, _, name = missing.partition(".")
        if OmegaConf.is_missing(cfg[group], name):
            OmegaConf.update(cfg, missing, "given")
    return cfg
