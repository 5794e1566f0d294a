"""A callback that decides which quantized layers keep their output for the backward, before the first step."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from quantbooth.quant.small_biases import find_small_biases, mark_small_biases_
from quantbooth.tuning.module import TuningModule

__all__ = ["KeptOutputs"]


class KeptOutputs(Callback):
    """Looks at the first batch where layers cannot look themselves: on a GPU, and in bfloat16.

    What it found is part of a run's state, so a run that goes on computes the same bits.
    """

    def __init__(self) -> None:
        self.names: list[str] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {} if self.names is None else {"names": self.names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.names = state_dict["names"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TuningModule)
        with trainer.precision_plugin.forward_context():
            if self.names is None and _undecided(pl_module.device.type):
                found = find_small_biases(
                    pl_module.denoiser, lambda: pl_module.loss_of(pl_module.drawn(0), pl_module.share)
                )
                self.names = trainer.strategy.broadcast(found)  # of the first process's rows
        mark_small_biases_(pl_module.denoiser, self.names or [])


def _undecided(device: str) -> bool:
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device) == torch.bfloat16
    return device != "cpu"
