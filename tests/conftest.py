"""What every test shares: one thread, no network, no display, a generator, the repository, a tiny base on disk."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from quantbooth.diffusion.pretrained import new_unet, save_base
from quantbooth.toyworld.captions import words
from quantbooth.toyworld.models import UNET, untrained_base

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", WANDB_MODE="offline", MPLBACKEND="Agg")
TINY = {
    **UNET,
    **{"block_out_channels": (8,), "norm_num_groups": 4, "attention_head_dim": 2, "mid_block_type": None},
    **{"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("UpBlock2D",)},
}


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained toy base with the smallest unet there can be; nobody writes into it."""
    base = untrained_base(words(), seed=0)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    save_base(replace(base, unet=new_unet(TINY)), folder, torch.float32)
    return folder
