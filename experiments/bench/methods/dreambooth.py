"""Float DreamBooth: every weight of the denoiser learns."""

import torch
from torch import nn

from experiments.bench.cases import Case
from experiments.bench.weights import fill_

__all__ = ["build_"]


def build_(denoiser: nn.Module, case: Case, generator: torch.Generator) -> None:
    """Fill the denoiser; all of it is trainable as it was made."""
    fill_(denoiser, case.setting.device, generator)
