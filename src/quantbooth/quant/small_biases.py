"""Finds the layers whose output y = g * u + b is precise enough to give g * u = y - b back.

In bfloat16 y has a relative error of 2^-9, so that of y - b is larger by about |b| / |g * u|, and with it that of the
gradient of g. A layer whose ratio in a forward pass, over channels,

    sqrt(sum_c b_c^2 / sum_c mean((g u)_c^2))

is at most `MOST` keeps y for its backward, which the next operation often keeps anyway, and not u beside it. It is
looked at once, before the first step: graphs cannot decide by values, and a GPU would be waited for.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from quantbooth.quant.layers import QuantizedLayer, quantized_layers

__all__ = ["MOST", "find_small_biases", "mark_small_biases_"]

MOST = 2.0
"""The largest ratio: dL/dg has then about twice the error that bfloat16 gives it with u."""


@torch.no_grad()
def find_small_biases(model: nn.Module, forward: Callable[[], object]) -> list[str]:
    """Return the names of quantized layers with gains whose bias is small in a forward pass, in the model's order.

    Args:
        model: has quantized layers.
        forward: computes its outputs, once or several times; the largest ratio of a layer counts.
    """
    ratios: dict[str, Tensor] = {}
    watched = [
        (name, one) for name, one in quantized_layers(model) if one.bias is not None and one.gain_out is not None
    ]
    if not watched:
        return []
    # before the hooks of adapters, which add their term to y
    hooks = [one.register_forward_hook(partial(_note, ratios, name), prepend=True) for name, one in watched]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    found = torch.stack(list(ratios.values())).tolist() if ratios else []  # a GPU is waited for once
    small = {name for name, ratio in zip(ratios, found, strict=True) if ratio <= MOST}
    return [name for name, _ in watched if name in small]


def mark_small_biases_(model: nn.Module, names: Sequence[str]) -> None:
    """Let the named quantized layers keep y for their backward, and no others."""
    for name, one in quantized_layers(model):
        one.small_bias = name in names


def _note(ratios: dict[str, Tensor], name: str, layer: QuantizedLayer, _inputs: tuple[Tensor, ...], y: Tensor) -> None:
    assert layer.bias is not None
    product = y.float().movedim(layer.channel, -1) - layer.bias
    size = product.square().mean(dim=tuple(range(product.ndim - 1))).sum()
    ratio = (layer.bias.float().square().sum() / size).sqrt().nan_to_num(0)  # no bias beside no product
    ratios[name] = torch.maximum(ratio, ratios[name]) if name in ratios else ratio
