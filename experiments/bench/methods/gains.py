"""quantbooth: packed codes that never become a float model, and gains of output channels that learn.

Sample i of the batch is served by set 1 + i mod sets: one set for all, or the sets of zones and subjects mixed.
"""

import torch
from torch import nn

from experiments.bench.cases import Case
from experiments.bench.weights import fill_, layers_of
from quantbooth.quant.scale_sets import attach_
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import Replaced, empty_like_

__all__ = ["build_", "quantize_"]


def build_(denoiser: nn.Module, case: Case, generator: torch.Generator) -> None:
    """Quantize, attach the sets and choose one for each sample."""
    assert case.sets is not None
    quantize_(denoiser, case, generator)
    selection = SetSelection()
    attach_(denoiser, case.sets, selection)
    selection.choose(1 + torch.arange(case.batch, device=case.setting.device) % case.sets)


def quantize_(denoiser: nn.Module, case: Case, generator: torch.Generator) -> None:
    """Swap in empty quantized layers, fill them with random codes and the rest with random weights, and freeze all."""
    assert case.bits is not None
    kinds = {
        name: (type(layer).__name__, layer.get_parameter("weight").shape) for name, layer in layers_of(denoiser).items()
    }
    empty_like_(
        denoiser, [Replaced(name, kind, tuple(shape), case.bits, 0, 0) for name, (kind, shape) in kinds.items()]
    )
    fill_(denoiser, case.setting.device, generator)
    denoiser.requires_grad_(False)
