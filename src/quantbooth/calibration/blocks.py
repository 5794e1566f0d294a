"""The blocks of a denoiser that are calibrated one after another, in the order of its forward.

A block is one of the family's blocks (a ResNet block, a transformer block) with its layers to quantize, or a single
layer outside of them. The order is found by watching one call, so no block is re-implemented.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

__all__ = ["Block", "blocks_of"]


@dataclass(frozen=True)
class Block:
    """A module of the denoiser, and the names, in the denoiser, of its layers to quantize."""

    name: str
    layers: tuple[str, ...]


def blocks_of(
    denoiser: nn.Module, blocks: Sequence[str], layers: Sequence[str], call: Callable[[], Any]
) -> list[Block]:
    """Return the blocks in the order of the call; each layer is in one block.

    Args:
        denoiser: the denoiser.
        blocks: names of the modules that are blocks if they contain such a layer.
        layers: names of the layers to quantize.
        call: runs the denoiser once.

    Raises:
        ValueError: when the call does not reach a block.
    """
    inside: dict[str, list[str]] = {}
    for layer in layers:
        block = next((name for name in blocks if layer.startswith(f"{name}.")), layer)
        inside.setdefault(block, []).append(layer)
    order = _called(denoiser, list(inside), call)
    if missing := set(inside) - set(order):
        raise ValueError(f"a call of the denoiser must reach every layer to round, but it leaves out {min(missing)!r}")
    return [Block(name, tuple(inside[name])) for name in order]


def _called(denoiser: nn.Module, names: list[str], call: Callable[[], Any]) -> list[str]:
    """Return the names of the modules in the order of their first call."""
    order: dict[str, None] = {}
    with ExitStack() as stack, torch.no_grad():
        for name in names:
            note = denoiser.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: order.setdefault(name))
            stack.callback(note.remove)
        call()
    return list(order)
