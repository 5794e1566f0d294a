"""Runs without loading any model."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from composing import composed
from quantbooth.evaluation.locators import WholeImage
from quantbooth.evaluation.scorer import Scorer
from quantbooth.run.run import Run
from quantbooth.runtime.config import conf_dir
from quantbooth_toyworld.judges import load_scorer
from quantbooth_toyworld.shipped import base_folder, judges_folder

MakePlan = Callable[..., Run]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of configuration files and a file of weights that nobody reads, and a place for a store."""
    place = tmp_path_factory.mktemp("plan")
    shutil.copytree(base_folder(), place / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    (place / "base" / "weights").write_text("1")
    return place


@pytest.fixture(scope="module")
def plan(folder: Path) -> MakePlan:
    """Makes the run of some overrides, with one scorer for all, of which only the name is asked."""
    scorer = Scorer(load_scorer(judges_folder()), WholeImage())

    def make(*overrides: str) -> Run:
        groups = tuple(word for word in overrides if (conf_dir() / word.partition("=")[0]).is_dir())
        cfg = composed("base=folder", *groups)
        given = [word for word in overrides if word not in groups]
        for word in [f"base.path={folder}/base", f"paths.outputs={folder}/out", "base.resolution=32", *given]:
            key, _, value = word.partition("=")
            OmegaConf.update(cfg, key, yaml.safe_load(value), force_add=True)
        made = Run(cfg)
        made.scorer = scorer
        return made

    return make
