"""Merge one scale set or adapter into float weights, giving the state dict of an equivalent float model.

    W_k = g_out_k * (q - z) s0 * g_in_k        b_k = b + shift_k
    W_k[o, i] = g_k[o, group of i] * (q - z) s0 * g_in_k    with gains by group of inputs
    w_k = g_out_k * w,  b_k = g_out_k * b + shift_k     of a normalization
    W_k = W + s B_k A_k                                 of a layer with an adapter (see `low_rank`)

so W_k x + b_k = g_out_k * (W_0 (g_in_k * x)) + b + shift_k, the same function up to rounding (see `ops`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from quantbooth.quant.adapters import adapted
from quantbooth.quant.layers import QuantizedLayer, quantized_layers
from quantbooth.quant.low_rank import LEARNED, delta
from quantbooth.quant.per_channel import bias_of, normalizations
from quantbooth.quant.selection import INITIAL_VALUES, registered_sets
from quantbooth.quant.stored import stored_layers
from quantbooth.runtime.errors import UserError

__all__ = ["average", "merged_state", "require_mergeable"]

State = dict[str, Tensor]


@torch.no_grad()
def merged_state(model: nn.Module, index: int) -> State:
    """Return the state dict of the float model, in float32 where anything was merged.

    Args:
        model: quantized, with or without scale sets; a float model gives its own tensors.
        index: of the set, 0 for the base.

    Raises:
        UserError: when the model cannot be merged.
    """
    require_mergeable(model)
    state = dict(model.state_dict())
    for name, layer in quantized_layers(model):
        _replace(state, name, _layer(layer, index))
    for name, norm in normalizations(model):
        if registered_sets(norm):
            _replace(state, name, _norm(norm, index))
    for name, module in adapted(model):
        _add(state, name, delta(module, LEARNED, index))
    return state


def require_mergeable(model: nn.Module) -> None:
    """Check that a float model can be equivalent to this one.

    Raises:
        UserError: when activations are quantized: float weights cannot represent their quantizers; or when layers are
            another package's, whose codes are not read.
    """
    for name, other in stored_layers(model):
        raise UserError(
            f"layer {name!r} is a {type(other).__name__} with the codes of another package, which are not merged; save "
            "the scale sets instead"
        )
    for name, layer in quantized_layers(model):
        if layer.input_quantizer is not None:
            raise UserError(
                f"activations are quantized (of layer {name!r} first), which float weights cannot hold; choose a quant "
                "of weights alone"
            )


def average(model: nn.Module, weights: Mapping[int, float]) -> State:
    """Return the weighted mean of the state dicts that `folded` gives for some sets.

    Raises:
        ValueError: when the weights do not sum to 1.
    """
    if abs(sum(weights.values()) - 1) > 1e-6:
        raise ValueError(f"weights must sum to 1, got {sum(weights.values())}")
    mean: State = {}
    for index, weight in weights.items():
        for name, tensor in merged_state(model, index).items():
            part = tensor * weight if tensor.is_floating_point() else tensor
            mean[name] = mean[name].add_(part) if name in mean and tensor.is_floating_point() else part
    return mean


def _replace(state: State, name: str, tensors: Mapping[str, Tensor | None]) -> None:
    """Replace all entries of a module in the state by these."""
    for key in [key for key in state if key.rpartition(".")[0] == name]:
        del state[key]
    state |= {f"{name}.{key}": tensor for key, tensor in tensors.items() if tensor is not None}


def _add(state: State, name: str, change: Tensor | None) -> None:
    """Add an adapter's weight change to the weight, and remove its A and B from the state."""
    for key in "AB":
        state.pop(f"{name}.{LEARNED}_{key}", None)
    if change is not None:
        weight = state[f"{name}.weight"]
        state[f"{name}.weight"] = (weight.float() + change).to(weight.dtype)


def _layer(layer: QuantizedLayer, index: int) -> dict[str, Tensor | None]:
    weight = layer.dequantized()
    across, shift = _row(layer, "gain_out", index), _row(layer, "shift", index)
    if across is not None:
        weight *= across.view(-1, *[1] * (weight.ndim - 1))
    by_group = _row(layer, "gain_groups", index)
    if by_group is not None:
        weight *= _of_groups(by_group, weight)
    along = _row(layer, "gain_in", index)
    if along is not None:
        weight *= _along(along, weight)
    bias = layer.bias if shift is None or layer.bias is None else layer.bias + shift
    return {"weight": weight, "bias": bias}


def _along(gain: Float[Tensor, " inputs"], weight: Float[Tensor, "out n ..."]) -> Float[Tensor, "#out n ..."]:
    """Return input gains shaped like the weight; a row of a grouped convolution has those of its group only."""
    out, width = weight.shape[:2]
    groups = len(gain) // width
    rows = gain.view(groups, 1, width).expand(groups, out // groups, width).reshape(out, width)
    return rows.view(out, width, *[1] * (weight.ndim - 2))


def _of_groups(gains: Float[Tensor, " n_out"], weight: Float[Tensor, "out n ..."]) -> Float[Tensor, "out n ..."]:
    """Return gains of groups of inputs shaped like the weight."""
    out, inputs = weight.shape[:2]
    rows = gains.view(-1, out).t()
    spread = rows.repeat_interleave(inputs // rows.shape[1], dim=1)
    return spread.view(out, inputs, *[1] * (weight.ndim - 2))


def _norm(norm: Any, index: int) -> dict[str, Tensor | None]:
    gain, shift = _row(norm, "gain_out", index), _row(norm, "shift", index)
    weight: Tensor = norm.weight.detach()
    bias = bias_of(norm)
    if gain is not None:
        weight, bias = weight * gain, None if bias is None else bias * gain
    return {"weight": weight, "bias": bias if shift is None or bias is None else bias + shift}


def _row(module: nn.Module, name: str, index: int) -> Float[Tensor, " n"] | None:
    """Return the values of one set, the neutral ones for the base; None where the module has none of this name."""
    rows = registered_sets(module).get(name)
    if rows is None:
        return None
    return rows[index - 1].detach() if index else torch.full_like(rows[0], INITIAL_VALUES[name])
