"""Fake quantizers and observers of a denoiser: at the inputs of its quantized layers and attentions.

Float layers keep float inputs, and so do all operations between layers: normalizations, nonlinearities, sums.
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
    """Insert a fake quantizer before every quantized layer and after the projections of their attentions.

    Args:
        denoiser: quantized; existing fake quantizers are replaced.
        make: returns a fake quantizer, given the split of its channels and the channel axis.
        softmax: bits of the attention probabilities.

    Returns:
        The names of the attention modules.

    Raises:
        UserError: for an attention that cannot be quantized.
    """
    attentions = quantized_attentions(denoiser)
    for name in attentions:
        install_(denoiser, name, QuantizedAttention(partial(make, (), -1), softmax))
    for _, layer in quantized_layers(denoiser):
        layer.input_quantizer = make(layer.split, layer.channel)
    return attentions


def fake_quantizers(denoiser: nn.Module) -> dict[str, FakeQuantizer]:
    """Return every fake quantizer by its name in the denoiser."""
    return {name: module for name, module in denoiser.named_modules() if isinstance(module, FakeQuantizer)}


def observe_ranges(base: Base, items: CalibrationSet, seed: int, batch: int, loop: Loop) -> None:
    """Run a denoiser with observers over a calibration set, in random order: a batch mixes prompts and timesteps.

    Args:
        base: the base with this denoiser.
        items: the calibration set.
        seed: decides the order.
        batch: items per batch.
        loop: runs the batches.
    """
    order = torch.randperm(len(items), generator=generator_for(seed, 0, "activation ranges")).tolist()

    def run(turns: list[int]) -> None:
        some = items.batch([order[turn] for turn in turns])
        base.predict(some.x.to(loop.device), some.t.to(loop.device), some.conditioning.to(loop.device))

    loop.place(base.denoiser)
    loop.map(run, batches(len(order), batch), "watching activations")
