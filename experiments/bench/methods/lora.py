"""LoRA on the float denoiser: peft adapters of rank 4 on attention's linear layers, as diffusers' DreamBooth LoRA."""

from typing import Any

import torch
from peft import LoraConfig

from experiments.bench.cases import Case
from experiments.bench.weights import fill_

__all__ = ["TARGETS", "build_"]

RANK = 4
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "to_qkv_mlp_proj"]
"""The last is of klein's single blocks, where attention's projections are one layer with those of the MLP."""


def build_(denoiser: Any, case: Case, generator: torch.Generator) -> None:
    """Fill the denoiser, freeze it and add the adapters."""
    fill_(denoiser, case.setting.device, generator)
    denoiser.requires_grad_(False)
    denoiser.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=TARGETS))
