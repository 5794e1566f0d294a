"""The trainer: Lightning's own, its refusals in one line."""

from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from quantbooth.errors import UserError

__all__ = ["root_device", "trainer"]


def trainer(**settings: Any) -> Trainer:
    """A Lightning trainer.

    Raises:
        UserError: when this machine or this Lightning cannot do what is asked.
    """
    try:
        return Trainer(**settings)
    except MisconfigurationException as error:
        reason = str(error).rstrip(".!")
        raise UserError(
            f"the trainer cannot be had: {reason}; choose trainer=cpu, or mend trainer.* options"
        ) from error


def root_device(trainer: Trainer) -> torch.device:
    """Where a trainer puts what it runs, in this process."""
    device = trainer.strategy.root_device
    if not isinstance(device, torch.device):
        raise TypeError(f"a trainer must have one device in each process, got {device!r}")
    return device
