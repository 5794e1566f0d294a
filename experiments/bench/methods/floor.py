"""The floor: dense float weights that nobody trains, so that a step is the products no method can do without.

They are one forward pass, and in the backward one product for dL/dx at each layer; no gradient of a weight is formed.
"""

import torch
from torch import nn

from experiments.bench.cases import Case
from experiments.bench.weights import fill_

__all__ = ["build_"]


def build_(denoiser: nn.Module, case: Case, generator: torch.Generator) -> None:
    """Fill the denoiser and freeze it; the gradient goes to the noisy latents instead."""
    fill_(denoiser, case.setting.device, generator)
    denoiser.requires_grad_(False)
