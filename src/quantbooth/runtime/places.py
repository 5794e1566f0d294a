"""The place of the store from an environment variable, so that another working directory finds the same work."""

import os

from omegaconf import DictConfig, OmegaConf

from quantbooth.runtime.progress import say

__all__ = ["STORE", "say_store"]

STORE = "QUANTBOOTH_STORE"
"""Environment variable: the place of the store, where paths.store is not given."""


def say_store(cfg: DictConfig) -> None:
    """Say which store is used where the environment names it."""
    if (place := os.environ.get(STORE)) and OmegaConf.select(cfg, "paths.store") == place:
        say(f"the store is {place}, from {STORE}")
