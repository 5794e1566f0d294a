"""Layer-wise calibration: round every weight of a float denoiser to the nearest code, one layer after another."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from quantbooth.quant.layers import QuantizedLayer
from quantbooth.quant.observers import ScaleSearch
from quantbooth.quant.surgery import NO_SPLITS, Replaced, Splits, quantize_
from quantbooth.runtime.lightning import Loop

__all__ = ["quantize_layers_"]


def quantize_layers_(
    denoiser: nn.Module,
    names: Sequence[str],
    search: ScaleSearch,
    splits: Splits,
    loop: Loop,
    what: str,
    read: Callable[[str], None] = lambda _: None,
) -> tuple[list[Replaced], dict[str, float]]:
    """Quantize layers in place; each float weight is freed before the next layer is read and quantized.

    Args:
        denoiser: is moved to the loop's device.
        names: of the layers.
        search: finds scales.
        splits: which of them have a scale per part of their inputs.
        loop: runs the layers.
        what: text of the progress bar.
        read: reads the weights of a layer that are not in memory, or with "" all that are left.

    Returns:
        The replaced layers, and ||W~ - W|| / ||W||, the relative error of each weight, by name.
    """
    replaced: list[Replaced] = []

    def quantize(name: str) -> float:
        read(name)
        denoiser.get_submodule(name).to(loop.device)
        weight = denoiser.get_submodule(name).get_parameter("weight")
        own = {name: splits[name]} if name in splits else NO_SPLITS
        replaced.extend(quantize_(denoiser, search, include=(name,), splits=own))
        layer = denoiser.get_submodule(name)
        if not isinstance(layer, QuantizedLayer):
            raise TypeError(f"layer {name!r} must be quantized now, got {type(layer).__name__}")
        return float(torch.dist(layer.dequantized(), weight) / (weight.norm() or 1))

    loop.precision.convert_module(denoiser).eval()
    errors = loop.map(quantize, names, what)
    read("")
    denoiser.to(loop.device)
    return replaced, dict(zip(names, errors, strict=True))
