"""The smallest base on which every command runs: an untrained toy base whose denoiser has one block a side."""

from dataclasses import replace
from pathlib import Path

import torch

from quantbooth.diffusion.pretrained import save_base
from quantbooth_toyworld.captions import words
from quantbooth_toyworld.models import DENOISER, new_denoiser, untrained_base

__all__ = ["QUICK", "TINY", "write_tiny_base"]

TINY = {
    **DENOISER,
    **{"block_out_channels": (8,), "norm_num_groups": 4, "attention_head_dim": 2, "mid_block_type": None},
    **{"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("UpBlock2D",)},
}
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=1", "prior=none", "tuner.steps=2"),
    *("preview.validation_steps=0", "protocol.prompt_stride=25"),
)
"""Options with which a whole chain on it takes a second or two; base.path is its folder."""


def write_tiny_base(folder: Path) -> Path:
    """Write the base as a diffusers folder; the same bytes each time."""
    base = untrained_base(words(), seed=0)
    torch.manual_seed(0)
    save_base(replace(base, denoiser=new_denoiser(TINY)), folder, torch.float32)
    return folder
