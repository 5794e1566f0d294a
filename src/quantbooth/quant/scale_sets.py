"""Scale sets of a whole model: put gains in, take them out, read and load them.

A scale set is one gain per output channel of every quantized layer. K sets live side by side: layer `name` holds
[K, out], set k (k >= 1) in row k - 1. Set 0 is the base, gain 1, stored nowhere.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from quantbooth.errors import UserError
from quantbooth.quant.layers import QuantizedLayer, quantized_layers
from quantbooth.quant.selection import Selection

Gains = dict[str, Float[Tensor, "sets out"]]


def attach_(model: nn.Module, count: int, selection: Selection) -> None:
    """Give every quantized layer `count` sets of gain 1 (float32, trainable), chosen per sample by `selection`.

    Raises:
        ValueError: when count is below 1 or the model has no quantized layer.
        RuntimeError: when gains are attached already.
    """
    if count < 1:
        raise ValueError(f"count of scale sets must be at least 1, got {count}")
    layers = _layers(model)
    taken = [name for name, layer in layers.items() if layer.gain is not None]
    if taken:
        raise RuntimeError(f"scale sets must be attached once, got a gain in {taken[0]!r} already: call detach_ first")
    for layer in layers.values():
        layer.gain = nn.Parameter(torch.ones(count, layer.shape[0], device=layer.codes.device))
        layer.selection = selection


def detach_(model: nn.Module) -> None:
    """Take all gains and the selection out: the model is the base again."""
    for layer in _layers(model).values():
        layer.gain, layer.selection = None, None


def parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the gains themselves, for an optimizer, in the order of the model.

    Weight decay pulls gains to 0, not to the base: keep it 0.
    """
    return list(_attached(model).values())


def trainable(model: nn.Module) -> int:
    """How many numbers all sets have together."""
    return sum(gain.numel() for gain in parameters(model))


def gains(model: nn.Module) -> Gains:
    """Return a copy of the gains by layer name."""
    return {name: gain.detach().clone() for name, gain in _attached(model).items()}


@torch.no_grad()
def load_(model: nn.Module, values: Mapping[str, Float[Tensor, "sets out"]]) -> None:
    """Set the attached gains; names and shapes must be those of the model, all of them.

    Raises:
        UserError: naming the first difference; nothing is loaded then.
        RuntimeError: when no gains are attached.
    """
    held = _attached(model)
    _compare(held, values, "the model", "the scale set")
    for name, gain in held.items():
        gain.copy_(values[name])


def stack(parts: Sequence[Mapping[str, Float[Tensor, "sets out"]]]) -> Gains:
    """Join sets tuned apart: [K1, out], [K2, out], ... become [K1 + K2 + ..., out], in this order.

    Raises:
        ValueError: when there is nothing to join.
        UserError: naming the first difference in layers or channels.
    """
    if not parts:
        raise ValueError("there must be at least one scale set to stack, got none")
    first = parts[0]
    for number, part in enumerate(parts[1:], start=2):
        likeness = {name: gain.new_empty(len(part.get(name, gain)), *gain.shape[1:]) for name, gain in first.items()}
        _compare(likeness, part, "scale set 1", f"scale set {number}")
    return {name: torch.cat([part[name] for part in parts]) for name in first}


def _layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    layers = dict(quantized_layers(model))
    if not layers:
        raise ValueError(f"the model must have quantized layers, got none in {type(model).__name__}")
    return layers


def _attached(model: nn.Module) -> dict[str, nn.Parameter]:
    held = {name: layer.gain for name, layer in _layers(model).items() if layer.gain is not None}
    if len(held) != len(_layers(model)):
        raise RuntimeError("scale sets must be attached to every quantized layer: call attach_ first")
    return held


def _compare(expected: Mapping[str, Tensor], got: Mapping[str, Tensor], of: str, other: str) -> None:
    for name, gain in expected.items():
        if name not in got:
            raise UserError(f"{other} does not fit {of}: layer {name!r} is missing")
        if got[name].shape != gain.shape:
            shapes = f"must have shape {tuple(gain.shape)}, got {tuple(got[name].shape)}"
            raise UserError(f"{other} does not fit {of}: layer {name!r} {shapes}")
    for name in got:
        if name not in expected:
            raise UserError(f"{other} does not fit {of}: layer {name!r} is not in {of}")
