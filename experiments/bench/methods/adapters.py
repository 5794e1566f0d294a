"""quantbooth's qlora: LoRA of rank 2 on attention's linear layers over packed codes that never become a float model."""

import torch
from torch import nn

from experiments.bench.cases import Case
from experiments.bench.methods.gains import quantize_
from experiments.bench.weights import ADAPTED
from quantbooth.quant.adapters import attach_, targets
from quantbooth.quant.selection import SetSelection

__all__ = ["build_"]

RANK = 2


def build_(denoiser: nn.Module, case: Case, generator: torch.Generator) -> None:
    """Fill quantized layers with random codes, and attach one set of adapters, which serves every sample."""
    quantize_(denoiser, case, generator)
    selection = SetSelection()
    names = targets(denoiser, [f"*.{name}" for name in ADAPTED if _has(denoiser, name)], [])
    attach_(denoiser, names, 1, RANK, 1.0, selection, generator)
    selection.choose(torch.ones(case.batch, dtype=torch.int64, device=case.setting.device))


def _has(denoiser: nn.Module, suffix: str) -> bool:
    return any(name.endswith(f".{suffix}") for name, _ in denoiser.named_modules())
