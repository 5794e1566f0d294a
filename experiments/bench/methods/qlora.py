"""QLoRA: bitsandbytes' nf4 with double quantization on every linear layer, peft adapters of rank 2 on attention's.

Convolutions stay float: bitsandbytes has no quantized ones. Kernels are those bitsandbytes chooses for the device.
"""

from typing import Any

import torch
from bitsandbytes.nn.modules import LinearNF4, Params4bit
from peft import LoraConfig
from torch import nn

from experiments.bench.cases import Case
from experiments.bench.weights import ADAPTED, drawn, fill_, layers_of, swap_

__all__ = ["build_"]

RANK = 2


def build_(denoiser: Any, case: Case, generator: torch.Generator) -> None:
    """Quantize layer after layer, one float weight being there at a time; then fill the rest and add the adapters."""
    for name, layer in layers_of(denoiser).items():
        if isinstance(layer, nn.Linear):
            swap_(denoiser, name, _quantized(layer, case.setting.device, generator))
    fill_(denoiser, case.setting.device, generator)
    denoiser.requires_grad_(False)
    denoiser.is_loaded_in_4bit = True  # peft asks for it, and would take the layers for float ones
    denoiser.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=ADAPTED))


def _quantized(layer: nn.Linear, device: str, generator: torch.Generator) -> nn.Module:
    bias = layer.bias is not None
    made = LinearNF4(layer.in_features, layer.out_features, bias, torch.float32, device="meta")
    weight: Any = Params4bit(
        drawn(layer.weight.shape, "cpu", generator),
        requires_grad=False,
        quant_type="nf4",
        compress_statistics=True,
        module=made,
    )
    made.register_parameter("weight", weight.to(device))  # quantizes
    return made
