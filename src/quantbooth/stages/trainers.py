"""The trainer: Lightning's own, its refusals in one line; which work several processes may share."""

from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from quantbooth.errors import UserError

__all__ = ["root_device", "trainer"]


def trainer(shared: bool = False, **settings: Any) -> Trainer:
    """A Lightning trainer.

    Work that may be divided is `shared` by `devices` processes, forked for it alone. Other work is done by one process,
    whatever `devices` is.

    Raises:
        UserError: when this machine or this Lightning cannot do what is asked.
    """
    devices = settings.get("devices", 1)
    many = isinstance(devices, int) and devices > 1
    if many and shared and settings.get("accelerator") != "cpu":
        raise UserError(f"processes share the drawing on CPUs only so far; trainer.devices must be 1, got {devices}")
    if many:
        settings |= {"strategy": "ddp_fork"} if shared else {"devices": 1}
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
