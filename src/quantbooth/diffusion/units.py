"""The units of a unet that are reconstructed one after another: its blocks, and the layers that are in none.

A unit is a ResNet block or a transformer block with the layers inside that are to be rounded, or one such layer by
itself. Their order is that in which the unet first calls them, found by watching one call: no block is re-implemented.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

__all__ = ["Unit", "units_of"]

BLOCKS = (ResnetBlock2D, BasicTransformerBlock)


@dataclass(frozen=True)
class Unit:
    """A module of the unet, and the names, within the whole unet, of the layers in it that are rounded together."""

    name: str
    layers: tuple[str, ...]


def units_of(unet: nn.Module, layers: Sequence[str], call: Callable[[], Any]) -> list[Unit]:
    """Every layer in one unit, in the order of the call.

    Args:
        unet: is called.
        layers: names of those to round.
        call: runs the unet once.

    Raises:
        ValueError: when the call leaves out a unit.
    """
    blocks = [name for name, module in unet.named_modules() if isinstance(module, BLOCKS)]
    inside: dict[str, list[str]] = {}
    for layer in layers:
        block = next((name for name in blocks if layer.startswith(f"{name}.")), layer)
        inside.setdefault(block, []).append(layer)
    order = _called(unet, list(inside), call)
    if missing := set(inside) - set(order):
        raise ValueError(f"a call of the unet must reach every layer to round, but it leaves out {min(missing)!r}")
    return [Unit(name, tuple(inside[name])) for name in order]


def _called(unet: nn.Module, names: list[str], call: Callable[[], Any]) -> list[str]:
    """The modules of these names in the order of their first call."""
    order: dict[str, None] = {}
    with ExitStack() as stack, torch.no_grad():
        for name in names:
            note = unet.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: order.setdefault(name))
            stack.callback(note.remove)
        call()
    return list(order)
