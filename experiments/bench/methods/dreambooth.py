"""Float DreamBooth: every weight of the unet learns."""

import torch
from torch import nn

from experiments.bench.cases import Case
from experiments.bench.weights import fill_

__all__ = ["build_"]


def build_(unet: nn.Module, case: Case, generator: torch.Generator) -> None:
    """Fill the unet; all of it is trainable as it was made."""
    fill_(unet, case.setting.device, generator)
