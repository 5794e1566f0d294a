"""Tensors on a GPU without waiting for it: what is sent there, and checks of values there."""

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

__all__ = ["holds", "sent"]

LOOKED_AT = ("cpu", "mps")
"""Devices whose values are looked at: PyTorch has no assertion on MPS."""


def sent(tensor: Shaped[Tensor, "..."], device: torch.device | str) -> Shaped[Tensor, "..."]:
    """Return a tensor on a device; a GPU gets it in the order of its work, and the program goes on."""
    return tensor.to(device, non_blocking=torch.device(device).type != "cpu")


def holds(condition: Bool[Tensor, ""], rule: str) -> bool:
    """Return whether a condition holds; on a GPU True, and it ends the program by itself where the condition fails.

    So it is in a graph of `torch.compile`, on any device.

    Args:
        condition: one truth value.
        rule: in words, for a failure on a GPU.
    """
    if condition.device.type in LOOKED_AT and not torch.compiler.is_compiling():
        return bool(condition)
    torch._assert_async(condition, rule)
    return True
