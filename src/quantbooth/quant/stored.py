"""Gains around layers that another package quantized, whatever their weight is: its codes are never read.

    y = g_out * (layer(g_in * x) - b) + b + shift
      = g_out * layer(g_in * x) + (1 - g_out) * b + shift

where layer(x) is the package's own forward, with the layer's bias b in it. Gains of 1 give layer(x) bit for bit. Hooks
compute this, as on normalizations (see `per_channel`), so a layer keeps its class, names and kernels, and

    dL/dx    goes through the package's own backward
    dL/dg    needs y alone, or layer(x) where y does not do (see `per_channel`)
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from quantbooth.quant.per_channel import gained
from quantbooth.quant.selection import INITIAL_VALUES, SetSelection, register_sets_, registered_sets, selected_rows
from quantbooth.runtime.errors import UserError

__all__ = ["attach_", "channels_of", "detach_", "stored_layers", "without", "without_groups"]

Layer = nn.Linear | nn.Conv2d
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
HANDLES = "sets_hooks"


def stored_layers(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Yield every Linear and Conv2d layer whose weight is no plain float tensor, with its name, in model order.

    Packages keep codes as whole numbers or 8-bit floats, or in a tensor class of their own that calls itself float.
    """
    for name, module in model.named_modules():
        if isinstance(module, Layer):
            weight = module.weight
            if weight.dtype not in FLOATS or is_traceable_wrapper_subclass(weight):
                yield name, module


def channels_of(layer: Layer) -> tuple[int, int]:
    """Return the numbers of output and input channels, which the shape of a packed weight does not tell."""
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels, layer.in_channels
    return layer.out_features, layer.in_features


def without(tuner: str) -> UserError:
    """Return the refusal of a tuner that needs float weights or packed codes of our own."""
    return UserError(f"tuner={tuner} does not tune codes as they are stored; choose tuner=scales with quant=as_stored")


def without_groups(group_size: int) -> UserError:
    """Return the refusal of gains by group of inputs, whose products need codes."""
    return UserError(
        f"tuner.group_size={group_size} needs packed codes of our own, which quant=as_stored does not have; choose "
        "tuner.group_size=null"
    )


def attach_(layer: Layer, sizes: Mapping[str, int], count: int, selection: SetSelection) -> None:
    """Attach `count` sets of these sizes to a layer (see `selection.register_sets_`)."""
    register_sets_(layer, sizes, count, selection, layer.weight.device)
    channel = 1 if isinstance(layer, nn.Conv2d) else -1
    before = layer.register_forward_pre_hook(partial(_gained_inputs, channel), prepend=True)
    setattr(layer, HANDLES, (before, layer.register_forward_hook(partial(_gained_outputs, channel))))


def detach_(layer: Layer) -> None:
    """Undo `attach_` completely; nothing to do without sets."""
    if registered_sets(layer):
        for handle in getattr(layer, HANDLES):
            handle.remove()
        for name in (HANDLES, *INITIAL_VALUES, "selection"):
            delattr(layer, name)


def _gained_inputs(channel: int, layer: Layer, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    x, *others = inputs
    gain = selected_rows(layer, "gain_in", len(x))
    return None if gain is None else (gained(x, gain, None, channel), *others)


def _gained_outputs(channel: int, layer: Layer, inputs: tuple[Any, ...], y: Tensor) -> Tensor:
    """Return y; layer(x) has no gradient where a package computes in whole numbers, or in place of autograd.

    Raises:
        UserError: when a gradient of x is wanted that the package does not compute.
    """
    if torch.is_grad_enabled() and inputs[0].requires_grad and not y.requires_grad:
        raise UserError(
            f"quant=as_stored trains through the layers of a base, but {type(layer).__name__} with a weight of "
            f"{type(layer.weight).__name__} gives its input no gradient; choose a base with quantized weights alone"
        )
    gain, shift = selected_rows(layer, "gain_out", len(y)), selected_rows(layer, "shift", len(y))
    if gain is None:
        raise RuntimeError("a layer with sets must have gains of its outputs")
    if layer.bias is not None:
        rest = (1 - gain.to(torch.promote_types(gain.dtype, layer.bias.dtype))) * layer.bias
        shift = rest if shift is None else rest + shift
    return gained(y, gain, shift, channel)
