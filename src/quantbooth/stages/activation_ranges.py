"""Activation ranges: a quantized denoiser is run over a calibration set, and every point notes its range."""

import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader

from quantbooth.artifacts.calibration_set import CalibrationSet
from quantbooth.data.draws import generator_for, place_loader
from quantbooth.diffusion.base import Base

__all__ = ["RangeStage"]


class RangeStage(LightningModule):
    """Runs a denoiser whose points are `RunningRange`s; items come mixed, so that a batch spans prompts and timesteps.

    Args:
        base: whose denoiser is run.
        items: what it is run on, each once.
        seed: decides their order.
    """

    def __init__(self, base: Base, items: CalibrationSet, seed: int) -> None:
        super().__init__()
        self.base, self.denoiser, self.items = base, base.denoiser, items
        self.order = torch.randperm(len(items), generator=generator_for(seed, 0, "activation ranges")).tolist()

    def loader(self, batch: int) -> DataLoader[list[int]]:
        """All items, `batch` at a time."""
        return place_loader(len(self.order), batch)

    def predict_step(self, turns: list[int]) -> int:
        """Run some items; return how many."""
        some = self.items.batch([self.order[turn] for turn in turns])
        self.base.predict(some.x.to(self.device), some.t.to(self.device), some.conditioning.to(self.device))
        return len(turns)
