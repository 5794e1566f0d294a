"""The places of a quantized denoiser where activations are quantized: what its quantized layers and attentions get.

Layers that stay float keep float inputs, and so does all between layers: normalizations, nonlinearities, sums.
"""

from collections.abc import Callable
from functools import partial

from torch import nn

from quantbooth.diffusion.quantized_attention import QuantizedAttention, install_, quantized_attentions
from quantbooth.quant.activations import ActivationQuantizer
from quantbooth.quant.layers import quantized_layers
from quantbooth.quant.running_range import RunningRange

__all__ = ["Point", "place_", "points"]

Point = RunningRange | ActivationQuantizer


def place_(denoiser: nn.Module, make: Callable[[tuple[int, ...], int], Point], softmax: int | None) -> list[str]:
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


def points(denoiser: nn.Module) -> dict[str, Point]:
    """Every point by its name in the denoiser."""
    return {name: module for name, module in denoiser.named_modules() if isinstance(module, Point)}
