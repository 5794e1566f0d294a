"""LoRA on the float denoiser: peft adapters of rank 4 on attention's linear layers, as diffusers' DreamBooth LoRA."""

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig

from experiments.bench.cases import Case
from experiments.bench.weights import fill_

__all__ = ["TARGETS", "build_"]

RANK = 4
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def build_(denoiser: UNet2DConditionModel, case: Case, generator: torch.Generator) -> None:
    """Fill the denoiser, freeze it and add the adapters."""
    fill_(denoiser, case.setting.device, generator)
    denoiser.requires_grad_(False)
    denoiser.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=TARGETS))
