"""Random weights in place of the meta device's empty ones, one layer after the other.

A weight is uniform in [-a, a] with a = 1 / sqrt(inputs of an output), as torch draws it; norms are 1 and 0. So
activations stay finite through a deep network, and no step meets numbers that are slow or special (denormal, infinite).
"""

from fnmatch import fnmatch

import torch
from torch import Tensor, nn

from experiments.bench.sizes import float_layers
from quantbooth.quant.layers import QuantizedLayer

__all__ = ["ADAPTED", "drawn", "fill_", "layers_of", "swap_"]

KINDS = (nn.Linear, nn.Conv2d)
ADAPTED = ["to_q", "to_k", "to_v", "to_out.0", "to_qkv_mlp_proj"]
"""What methods with adapters adapt; the last is of klein's single blocks: attention's projections and the MLP's."""


def drawn(shape: torch.Size, device: str, generator: torch.Generator) -> Tensor:
    """A float weight [out, in, ...], made on the CPU."""
    bound = shape[1:].numel() ** -0.5
    return torch.empty(shape).uniform_(-bound, bound, generator=generator).to(device)


def fill_(model: nn.Module, device: str, generator: torch.Generator) -> None:
    """Give every parameter and buffer that is still on the meta device memory and a value."""
    for module in model.modules():
        if isinstance(module, QuantizedLayer):
            _fill_quantized_(module, device, generator)
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                value = _value(name, parameter.shape, device, generator)
                module.register_parameter(name, nn.Parameter(value, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                module.register_buffer(name, _value(name, buffer.shape, device, generator))


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """The float layers that a quantized method replaces, by name."""
    ends = float_layers(model)
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, KINDS) and not any(fnmatch(name, end) for end in ends)
    }


def swap_(model: nn.Module, name: str, made: nn.Module) -> None:
    """Put a module in the place of that name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, made)


def _value(name: str, shape: torch.Size, device: str, generator: torch.Generator) -> Tensor:
    if len(shape) > 1:
        return drawn(shape, device, generator)
    return torch.full(shape, float(name == "weight"), device=device)


def _fill_quantized_(layer: QuantizedLayer, device: str, generator: torch.Generator) -> None:
    """Random bytes are random codes; (q - z) * s0 then spans [-a, a]."""
    levels, inputs = 2**layer.bits, torch.Size(layer.shape[1:]).numel()
    layer.codes = torch.empty_like(layer.codes, device="cpu").random_(0, 256, generator=generator).to(device)
    layer.scale = torch.full_like(layer.scale, 2 * inputs**-0.5 / levels, device=device)
    layer.zero = torch.full_like(layer.zero, levels // 2, device=device)
    if layer.bias is not None:
        layer.bias = torch.zeros_like(layer.bias, device=device)
