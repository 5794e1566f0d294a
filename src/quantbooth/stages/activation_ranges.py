"""Activation ranges: a quantized unet is run over a calibration set, and every point notes the range it is given."""

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader

from quantbooth.artifacts.calibration_set import CalibrationSet
from quantbooth.data.draws import generator_for, place_loader

__all__ = ["RangeStage"]


class RangeStage(LightningModule):
    """Runs a unet whose points are `RunningRange`s; items come mixed, so that a batch spans prompts and timesteps.

    Args:
        unet: is run.
        items: what it is run on, each once.
        seed: decides their order.
    """

    def __init__(self, unet: nn.Module, items: CalibrationSet, seed: int) -> None:
        super().__init__()
        self.unet, self.items = unet, items
        self.order = torch.randperm(len(items), generator=generator_for(seed, 0, "activation ranges")).tolist()

    def loader(self, batch: int) -> DataLoader[list[int]]:
        """All items, `batch` at a time."""
        return place_loader(len(self.order), batch)

    def predict_step(self, turns: list[int]) -> int:
        """Run some items; return how many."""
        some = self.items.batch([self.order[turn] for turn in turns])
        x, t, text = (tensor.to(self.device) for tensor in (some.x, some.t, some.text))
        self.unet(x, t, encoder_hidden_states=text)
        return len(turns)
