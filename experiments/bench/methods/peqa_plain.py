"""PEQA written plainly: the weight is dequantized inside the autograd graph, codes are a byte each whatever the bits.

    w = (q - z) * (s0 + ds),    y = product(x, w) + b

with ds learning, so autograd keeps q - z and w in float and forms dL/dw. This is what a straightforward reading of the
paper gives (Kim et al., NeurIPS 2023, arXiv 2305.14152), and what released code of scale tuning for diffusion models
does; written here from the formula.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.bench.cases import Case
from experiments.bench.weights import fill_, layers_of, swap_

__all__ = ["PlainConv2d", "PlainLinear", "build_"]


class Plain(nn.Module):
    """What both kinds share: byte-sized codes, a scale and a zero point of each output channel, the trainable ds."""

    codes: Tensor
    scale: Tensor
    zero: Tensor
    bias: Tensor | None

    def __init__(self, codes: Tensor, bits: int, bias: Tensor | None) -> None:
        super().__init__()
        channels = [codes.shape[0], *[1] * (codes.ndim - 1)]
        spread = 2 * codes.shape[1:].numel() ** -0.5 / 2**bits
        self.register_buffer("codes", codes)
        self.register_buffer("scale", torch.full(channels, spread, device=codes.device))
        self.register_buffer("zero", torch.full(channels, float(2 ** (bits - 1)), device=codes.device))
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias))
        self.delta = nn.Parameter(torch.zeros(channels, device=codes.device))

    def weight(self) -> Tensor:
        """w, in the graph."""
        return (self.codes.float() - self.zero) * (self.scale + self.delta)


class PlainLinear(Plain):
    """y = x w^T + b."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight(), self.bias)


class PlainConv2d(Plain):
    """y = w convolved with x, + b."""

    def __init__(self, codes: Tensor, bits: int, bias: Tensor | None, **options: Any) -> None:
        super().__init__(codes, bits, bias)
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight(), self.bias, **self.options)


def build_(denoiser: nn.Module, case: Case, generator: torch.Generator) -> None:
    """Swap the layers, fill the rest, and let only the ds learn."""
    assert case.bits is not None
    for name, layer in layers_of(denoiser).items():
        swap_(denoiser, name, _plain(layer, case.bits, case.setting.device, generator))
    fill_(denoiser, case.setting.device, generator)
    for name, parameter in denoiser.named_parameters():
        parameter.requires_grad_(name.endswith(".delta"))


def _plain(layer: nn.Module, bits: int, device: str, generator: torch.Generator) -> Plain:
    shape = layer.get_parameter("weight").shape
    codes = torch.empty(shape, dtype=torch.uint8).random_(0, 2**bits, generator=generator).to(device)
    if isinstance(layer, nn.Conv2d):
        options = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
        return PlainConv2d(codes, bits, layer.bias, **options)
    assert isinstance(layer, nn.Linear)
    return PlainLinear(codes, bits, layer.bias)
