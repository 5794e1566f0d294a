"""A toy base with a very small random unet, made once; fresh copies of it, float or quantized, to tune."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch

from quantbooth.diffusion.base import Base, frozen
from quantbooth.diffusion.pretrained import new_unet
from quantbooth.quant.grid import Grid
from quantbooth.quant.scale_search import MinMax
from quantbooth.quant.surgery import quantize_
from quantbooth.stages.tuning import Examples
from quantbooth.toyworld.models import UNET, untrained_base

SMALL = {**UNET, "block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 2}


@pytest.fixture(scope="session")
def small_base() -> Base:
    base = untrained_base(["a", "photo", "of", "red", "mug", "duck", "on", "the", "beach", "sks"], seed=0)
    torch.manual_seed(0)
    return frozen(replace(base, unet=new_unet(SMALL)))


@pytest.fixture(scope="session")
def quantized(small_base: Base) -> Callable[[], Any]:
    """Makes the untuned quantized unet, a new one each time."""
    unet = deepcopy(small_base.unet)
    quantize_(unet, MinMax(Grid(4)), exclude=["conv_in", "conv_out"])
    return lambda: deepcopy(unet)


@pytest.fixture(scope="session")
def examples() -> Examples:
    """Five photos and four class pictures, random, each beside its own sentence."""
    draw = torch.Generator().manual_seed(7)
    subject, prior = torch.randn(5, 24, 8, 8, generator=draw), torch.randn(4, 24, 8, 8, generator=draw)
    texts = torch.randn(2, 26, 128, generator=draw)
    return Examples(subject, texts[0], prior, texts[1])
