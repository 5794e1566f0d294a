"""Calibration: the float denoiser becomes a quantized one, a layer at a step, under Lightning's predict loop."""

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader

from quantbooth.quant.layers import QuantizedLayer
from quantbooth.quant.observers import ScaleSearch
from quantbooth.quant.surgery import NO_SPLITS, Replaced, Splits, quantize_

__all__ = ["CalibrationStage"]


class CalibrationStage(LightningModule):
    """Quantizes the layers it is handed by name; each float weight is let go before the next layer is begun.

    `splits` tells which of them have a scale for each part of their inputs.
    """

    def __init__(self, denoiser: nn.Module, search: ScaleSearch, splits: Splits = NO_SPLITS) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.search = search
        self.splits = splits
        self.replaced: list[Replaced] = []
        self.errors: dict[str, float] = {}

    def predict_step(self, name: str) -> float:
        weight = self.denoiser.get_submodule(name).get_parameter("weight").detach()
        splits = {name: self.splits[name]} if name in self.splits else NO_SPLITS
        self.replaced += quantize_(self.denoiser, self.search, include=(name,), splits=splits)
        layer = self.denoiser.get_submodule(name)
        if not isinstance(layer, QuantizedLayer):
            raise TypeError(f"layer {name!r} must be quantized now, got {type(layer).__name__}")
        self.errors[name] = float(torch.dist(layer.dequantized(), weight) / (weight.norm() or 1))
        return self.errors[name]

    @staticmethod
    def loader(names: list[str]) -> DataLoader[str]:
        """One item per layer."""
        return DataLoader(names, batch_size=None)  # type: ignore[arg-type]  # a list is a dataset
