"""The blocks of a denoiser that are reconstructed one after another: its blocks, and the layers that are in none.

A block is a block of the family (a ResNet block, a transformer block) with the layers inside that are to be rounded, or
one such layer by itself. Their order is that in which the denoiser first calls them, found by watching one call: no
block is re-implemented.
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
    """A module of the denoiser, and the names, within the denoiser, of the layers in it that are rounded together."""

    name: str
    layers: tuple[str, ...]


def blocks_of(
    denoiser: nn.Module, blocks: Sequence[str], layers: Sequence[str], call: Callable[[], Any]
) -> list[Block]:
    """Every layer in one block, in the order of the call.

    Args:
        denoiser: is called.
        blocks: names of the modules that are blocks where they hold such a layer.
        layers: names of those to round.
        call: runs the denoiser once.

    Raises:
        ValueError: when the call leaves out a block.
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
    """The modules of these names in the order of their first call."""
    order: dict[str, None] = {}
    with ExitStack() as stack, torch.no_grad():
        for name in names:
            note = denoiser.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: order.setdefault(name))
            stack.callback(note.remove)
        call()
    return list(order)
