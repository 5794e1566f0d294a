"""Parts of a run that are computed in float32 whatever `trainer.precision` is."""

from contextlib import AbstractContextManager
from typing import Any

import torch

__all__ = ["full_precision"]


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Turn autocast off: autoencoders and judges compute in the precision of their weights."""
    return torch.autocast(device.type, enabled=False)
