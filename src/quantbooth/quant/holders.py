"""Modules that hold scale sets: K rows of numbers each, of which every sample uses the row of the set that serves it.

    gain_in   [K, in]    relative, starts at 1: multiplies a layer's input channels
    gain_out  [K, out]   relative, starts at 1: multiplies output channels
    shift     [K, out]   additive, starts at 0: adds to output channels

Row k - 1 is set k. Set 0 is the base, every number at its start, stored nowhere. A holder is any module with these
three parameters, None where it does not hold one, and a `selection`.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from quantbooth.quant.selection import Selection

__all__ = ["START", "chosen", "held", "hold_", "let_go_"]

START = {"gain_in": 1.0, "gain_out": 1.0, "shift": 0.0}


def hold_(module: nn.Module, sizes: Mapping[str, int], count: int, selection: Selection, device: torch.device) -> None:
    """Put `count` sets of the base's numbers in (float32, trainable), chosen per sample by `selection`.

    Args:
        module: becomes a holder.
        sizes: numbers of one set, by name; what is not named is not held.
        count: K.
        selection: shared by the whole model.
        device: where the module's own tensors are.
    """
    for name, start in START.items():
        size = sizes.get(name)
        values = None if size is None else nn.Parameter(torch.full((count, size), start, device=device))
        module.register_parameter(name, values)
    module.selection = selection  # type: ignore[assignment]


def let_go_(module: nn.Module) -> None:
    """Take all numbers and the selection out."""
    for name in START:
        module.register_parameter(name, None)
    module.selection = None  # type: ignore[assignment]


def held(module: nn.Module) -> dict[str, nn.Parameter]:
    """The numbers a holder has, by name."""
    own = dict(module.named_parameters(recurse=False))
    return {name: own[name] for name in START if name in own}


def chosen(module: nn.Module, name: str, batch: int) -> Float[Tensor, "b n"] | None:
    """Sample i's row of the numbers: that of its set, or the start where the base serves it; None when not held.

    Raises:
        RuntimeError: when the selection is unset, or does not fit the batch or the sets.
    """
    values: Tensor | None = getattr(module, name)
    if values is None:
        return None
    if module.selection is None:
        raise RuntimeError("a layer with gains must have a selection: put both in with scale_sets.attach_")
    selection: Selection = module.selection  # type: ignore[assignment]
    index = selection.checked(batch, len(values))
    return torch.cat([values.new_full((1, values.shape[1]), START[name]), values])[index]
