"""LoRA on the float denoiser: peft adapters of rank 4 on attention's linear layers, as diffusers' DreamBooth LoRA."""

from typing import Any

import torch
from peft import LoraConfig

from experiments.bench.cases import Case
from experiments.bench.weights import ADAPTED, fill_

__all__ = ["build_"]

RANK = 4


def build_(denoiser: Any, case: Case, generator: torch.Generator) -> None:
    """Fill the denoiser, freeze it and add the adapters."""
    fill_(denoiser, case.setting.device, generator)
    denoiser.requires_grad_(False)
    denoiser.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=ADAPTED))
