"""What every test shares: one thread, no network, no display, a generator, the repository, a tiny base, commands."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import hydra
import jaxtyping
import pytest
import torch
from omegaconf import DictConfig

from quantbooth.config import conf_dir
from quantbooth.diffusion.pretrained import save_base
from quantbooth.toyworld.captions import words
from quantbooth.toyworld.models import DENOISER, new_denoiser, untrained_base

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", WANDB_MODE="offline", MPLBACKEND="Agg")
TINY = {
    **DENOISER,
    **{"block_out_channels": (8,), "norm_num_groups": 4, "attention_head_dim": 2, "mid_block_type": None},
    **{"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("UpBlock2D",)},
}


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Leaves annotations unchecked, as a user has them, where a function's own look at its arguments is tested."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained toy base with the smallest denoiser there can be; nobody writes into it."""
    base = untrained_base(words(), seed=0)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    save_base(replace(base, denoiser=new_denoiser(TINY)), folder, torch.float32)
    return folder


@pytest.fixture(scope="session")
def compose(base_folder: Path) -> Callable[..., DictConfig]:
    """Composes a configuration on the tiny base as the command line does: of the place of outputs, and options."""

    def make(outputs: Path, *options: str) -> DictConfig:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return hydra.compose("quantbooth", [f"base.path={base_folder}", f"paths.outputs={outputs}", *options])

    return make


@pytest.fixture
def typed(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str]]]:
    """Runs a command on the tiny base as if typed, in this process; gives its exit code and what it wrote to stderr."""
    handlers = logging.root.handlers[:]

    def run(program: Callable[[], None], *words: str) -> tuple[int, str]:
        settings = [f"base.path={base_folder}", f"paths.outputs={tmp_path}/out", *words]
        monkeypatch.setattr(sys, "argv", ["quantbooth", *sorted(settings, key=lambda word: word != "-m")])
        with pytest.raises(SystemExit) as ended:
            program()
        return int(str(ended.value.code)), capsys.readouterr().err

    yield run
    logging.root.handlers[:] = handlers
