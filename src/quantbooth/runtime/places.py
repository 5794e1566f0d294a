"""The place of the store from an environment variable, so that another working directory finds the same work."""

import os

from omegaconf import DictConfig, OmegaConf

from quantbooth.runtime.errors import UserError
from quantbooth.runtime.progress import say

__all__ = ["STORE", "require_named", "say_store"]

STORE = "QUANTBOOTH_STORE"
"""Environment variable: the place of the store, where paths.store is not given."""


def require_named(cfg: DictConfig) -> None:
    """Refuse a variable that is set and empty, which would be the place.

    Raises:
        UserError: when it is.
    """
    if os.environ.get(STORE) == "" and OmegaConf.select(cfg, "paths.store") == "":
        raise UserError(f"the environment variable {STORE} is empty; unset {STORE}, or set it to the folder of a store")


def say_store(cfg: DictConfig) -> None:
    """Say which store is used where the environment names it."""
    if (place := os.environ.get(STORE)) and OmegaConf.select(cfg, "paths.store") == place:
        say(f"the store is {place}, from {STORE}")
