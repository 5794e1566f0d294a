"""Where the activations of a denoiser are quantized, and the ranges they take over a calibration set.

The places of a quantized denoiser where activations are quantized: what its quantized layers and attentions get.

Layers that stay float keep float inputs, and so does all between layers: normalizations, nonlinearities, sums.

Activation ranges: a quantized denoiser is run over a calibration set, and every point notes its range.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from quantbooth.calibration.calibration_set import CalibrationSet
from quantbooth.calibration.quantized_attention import QuantizedAttention, install_, quantized_attentions
from quantbooth.diffusion.base import Base
from quantbooth.quant.activations import ActivationQuantizer
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.observers import MovingAverageMinMaxObserver
from quantbooth.runtime.draws import batches, generator_for
from quantbooth.runtime.lightning import Loop

__all__ = ["FakeQuantizer", "insert_fake_quantizers_", "fake_quantizers", "observe_ranges"]

FakeQuantizer = MovingAverageMinMaxObserver | ActivationQuantizer


def insert_fake_quantizers_(
    denoiser: nn.Module, make: Callable[[tuple[int, ...], int], FakeQuantizer], softmax: int | None
) -> list[str]:
    """Put a point before every quantized layer and behind the projections of their attentions.

    Args:
        denoiser: quantized; points that are there already are replaced.
        make: makes a point from the split of its channels and the axis that counts them.
        softmax: bits of attention's probabilities.

    Returns:
        The names of the attention modules.

    Raises:
        UserError: when an attention is of a kind that cannot be quantized.
    """
    attentions = quantized_attentions(denoiser)
    for name in attentions:
        install_(denoiser, name, QuantizedAttention(partial(make, (), -1), softmax))
    for _, layer in quantized_layers(denoiser):
        layer.input_quantizer = make(layer.split, layer.channel)
    return attentions


def fake_quantizers(denoiser: nn.Module) -> dict[str, FakeQuantizer]:
    """Every point by its name in the denoiser."""
    return {name: module for name, module in denoiser.named_modules() if isinstance(module, FakeQuantizer)}


def observe_ranges(base: Base, items: CalibrationSet, seed: int, batch: int, loop: Loop) -> None:
    """Run a denoiser with observers over a calibration set, in random order: a batch mixes prompts and timesteps.

    Args:
        base: whose denoiser is run.
        items: what it is run on, each once.
        seed: decides their order.
        batch: items at a time.
        loop: runs them.
    """
    order = torch.randperm(len(items), generator=generator_for(seed, 0, "activation ranges")).tolist()

    def run(turns: list[int]) -> None:
        some = items.batch([order[turn] for turn in turns])
        base.predict(some.x.to(loop.device), some.t.to(loop.device), some.conditioning.to(loop.device))

    loop.place(base.denoiser)
    loop.map(run, batches(len(order), batch), "watching activations")
