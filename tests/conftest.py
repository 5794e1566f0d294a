"""What every test shares: one thread, no network, no display, a seeded generator, the repository's folder."""

import os
from pathlib import Path

import pytest
import torch

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", WANDB_MODE="offline", MPLBACKEND="Agg")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).parents[1]
