"""What tests of families share: the folder of a tiny base of random weights, and copies of it with a changed file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.random_base import random_base
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.pretrained import load_base, save_base

Edit = Callable[..., Path]


@pytest.fixture(scope="package")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the folder of a base by its name, which is written once."""
    made: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            save_base(random_base(name), made[name], torch.float32)
        return made[name]

    return write


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, written: Callable[[str], Path]) -> Path:
    """The folder of the base that the test's file names."""
    return written(request.module.NAME)


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Base:
    """That base, loaded; a test that changes it loads its own."""
    return load_base(folder, "base")


@pytest.fixture
def edited(tmp_path: Path) -> Edit:
    """Makes a copy of a base's folder in which keys of a file are changed, and some gone."""

    def edit(folder: Path, file: str, change: dict[str, Any], *gone: str, weights: bool = True) -> Path:
        ignore = None if weights else shutil.ignore_patterns("*.safetensors")
        copy = Path(shutil.copytree(folder, tmp_path / f"base{len([*tmp_path.iterdir()])}", ignore=ignore))
        said = {**json.loads((copy / file).read_text()), **change}
        (copy / file).write_text(json.dumps({key: value for key, value in said.items() if key not in gone}))
        return copy

    return edit
