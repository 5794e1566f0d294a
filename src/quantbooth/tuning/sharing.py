"""Shared steps: the experts of each subject learn as one set, whose gradient is the sum of theirs.

    g_k <- g_1 + ... + g_K    for each k, before the optimizer steps

Experts that start equal stay equal, with every optimizer that treats equal rows with equal gradients equally.
"""

from collections.abc import Iterable

import torch
from torch import nn

__all__ = ["share_gradients_"]


@torch.no_grad()
def share_gradients_(numbers: Iterable[nn.Parameter], experts: int) -> None:
    """Replace the gradients [subjects * experts, ...] of each subject's experts by their sum."""
    for one in numbers:
        if one.grad is not None:
            own = one.grad.view(-1, experts, *one.shape[1:])
            own.copy_(own.sum(dim=1, keepdim=True).expand_as(own))
