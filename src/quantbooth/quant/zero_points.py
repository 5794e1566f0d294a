"""Merge adapters that read groups of inputs into zero points, so that a tuned weight stays the same integers.

    W + D = s0 (q - z) + D = s0 (q - z'),    z'[o, k] = z[o] - D[o, k] / s0[o]

where D = s B A is constant in each group k of inputs (QA-LoRA, Xu et al. 2023, arXiv 2309.14717). The codes q and the
scales s0 stay as they are, bit for bit. z' lies between codes, so it is a float, and there is one per output channel
and group: a weight with merged zero points has a part for each group (`packed_weight`), each with the scale of before.
"""

from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn

from quantbooth.quant.adapters import adapted
from quantbooth.quant.layers import QuantizedLayer
from quantbooth.quant.low_rank import LEARNED, Form, delta, release_
from quantbooth.runtime.errors import UserError

__all__ = ["merge_zeros_"]


@torch.no_grad()
def merge_zeros_(model: nn.Module, index: int) -> dict[str, QuantizedLayer]:
    """Replace every adapted layer by one without adapter that has the adapter of a set in its zero points.

    Args:
        model: quantized, with adapters that read groups.
        index: of the set; 0 is the base.

    Returns:
        The layers that were replaced, by name.

    Raises:
        UserError: naming a layer whose adapter reads single inputs, or whose activations are quantized: the adapter
            reads the float ones.
    """
    found = dict(adapted(model))
    for name, layer in found.items():
        form: Form = getattr(layer, f"{LEARNED}_form")
        if form.group_size is None or not isinstance(layer, QuantizedLayer):
            raise UserError(f"the adapter of {name!r} cannot be merged into zero points; choose tuner=qa_lora")
        if layer.input_quantizer is not None:
            raise UserError(
                f"activations are quantized (of layer {name!r} first), but an adapter reads the float ones; choose a "
                "quant of weights alone"
            )
    made = {name: _merged(layer, index) for name, layer in found.items() if isinstance(layer, QuantizedLayer)}
    for name, layer in made.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    return made


def _merged(layer: QuantizedLayer, index: int) -> QuantizedLayer:
    """Return a copy of a layer with a part per group of inputs, without its adapter."""
    form: Form = getattr(layer, f"{LEARNED}_form")
    size, inputs = form.group_size or 1, layer.shape[1]
    scale, zero = (_by_group(layer, numbers, size) for numbers in (layer.scale, layer.zero.float()))
    change = delta(layer, LEARNED, index)
    if change is not None:
        per_group = change.flatten(2)[..., 0] if change.ndim > 2 else change
        zero = zero - per_group[:, ::size].t().to(zero) / scale
    groups = inputs // size
    made = deepcopy(layer)
    release_(made, LEARNED)
    made.form = replace(layer.form, split=(size,) * groups if groups > 1 else ())
    made.split = made.form.split
    made.codes = made.form.store(layer.form.integers(layer.codes))
    made.scale, made.zero = (numbers.reshape(made.form.affine_shape).contiguous() for numbers in (scale, zero))
    return made


def _by_group(layer: QuantizedLayer, numbers: torch.Tensor, size: int) -> torch.Tensor:
    """Return scales or zero points as [groups, out]: those of the part that a group lies in."""
    spread = layer.form.spread(numbers).flatten(1)
    columns = spread.expand(spread.shape[0], layer.shape[1]) if spread.shape[1] == 1 else spread
    return columns[:, ::size].t()
