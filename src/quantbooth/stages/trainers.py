"""The trainer: Lightning's own, its refusals in one line."""

from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from quantbooth.errors import UserError

__all__ = ["trainer"]


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
