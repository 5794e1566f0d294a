"""Gains and shifts on a model's normalizations, y = g * norm(x) + b, per channel and scale set.

The normalization stays as it is, its own weight and bias frozen: a forward hook puts g and b on top, so that whoever
asks for its class (as diffusers does in places) or its weight still finds them.
"""

from collections.abc import Iterator
from functools import partial

from torch import Tensor, nn

from quantbooth.quant.holders import chosen, hold_
from quantbooth.quant.per_channel import gained
from quantbooth.quant.selection import Selection

__all__ = ["attach_", "detach_", "normalizations"]

Norm = nn.GroupNorm | nn.LayerNorm
HANDLE = "sets_hook"


def normalizations(model: nn.Module) -> Iterator[tuple[str, Norm]]:
    """Yield every GroupNorm and LayerNorm that has a weight per channel, with its name, in the order of the model."""
    for name, module in model.named_modules():
        if isinstance(module, Norm) and isinstance(module.weight, Tensor) and module.weight.ndim == 1:
            yield name, module


def attach_(norm: Norm, count: int, selection: Selection) -> None:
    """Give a normalization `count` sets: a gain on each channel, and a shift where it has a bias."""
    channels, channel = len(norm.weight), 1 if isinstance(norm, nn.GroupNorm) else -1
    sizes = {"gain_out": channels} | ({} if norm.bias is None else {"shift": channels})
    hold_(norm, sizes, count, selection, norm.weight.device)
    setattr(norm, HANDLE, norm.register_forward_hook(partial(_with_sets, channel)))


def detach_(norm: Norm) -> None:
    """Undo `attach_`, leaving nothing behind."""
    getattr(norm, HANDLE).remove()
    for name in (HANDLE, "gain_in", "gain_out", "shift", "selection"):
        delattr(norm, name)


def _with_sets(channel: int, norm: Norm, _inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
    gain = chosen(norm, "gain_out", len(y))
    return y if gain is None else gained(y, gain, chosen(norm, "shift", len(y)), channel)
