"""Scale sets of a whole model: attach, detach, read and load the trainable gains of quantized layers.

Quantized layers are those of `layers`, and those that another package quantized (see `stored`).

A scale set is what personalization trains: one gain per output channel of every quantized layer, and the `Parts` added
to it. K sets are stacked: `<layer>.gain_out` is [K, out], set k (k >= 1) in row k - 1. Set 0 is the base, which is not
stored. `selection` lists the parameters and their initial values.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from quantbooth.quant import per_channel, stored
from quantbooth.quant.group_gains import groups_of, require_groups
from quantbooth.quant.layers import QuantizedLayer, quantized_layers
from quantbooth.quant.selection import INITIAL_VALUES, SetSelection, register_sets_, registered_sets, unregister_sets_
from quantbooth.runtime.errors import UserError

__all__ = [
    "Parts",
    "attach_",
    "detach_",
    "load_",
    "norms_of",
    "parameters",
    "parts_of",
    "read",
    "require_fit",
    "stack",
    "trainable",
    "unstack",
]


def require_fit(
    expected: Mapping[str, Shaped[Tensor, "..."]],
    got: Mapping[str, Shaped[Tensor, "..."]],
    of: str,
    other: str,
) -> None:
    """Check that tensors have the expected names and shapes.

    Args:
        expected: tensors with the required names and shapes; their values are not read.
        got: the given tensors.
        of: the owner of `expected`, for the message.
        other: a name of `got`, for the message.

    Raises:
        UserError: naming the first difference.
    """
    for name, tensor in expected.items():
        if name not in got:
            raise UserError(f"{other} does not fit {of}: {name!r} is missing")
        if got[name].shape != tensor.shape:
            shapes = f"must have shape {tuple(tensor.shape)}, got {tuple(got[name].shape)}"
            raise UserError(f"{other} does not fit {of}: {name!r} {shapes}")
    for name in got:
        if name not in expected:
            raise UserError(f"{other} does not fit {of}: {name!r} is not in {of}")


Sets = dict[str, Float[Tensor, "sets _n"]]
Layer = QuantizedLayer | stored.Layer


@dataclass(frozen=True)
class Parts:
    """The parameters of a scale set in addition to the gains of output channels.

    Attributes:
        inputs: a gain per input channel of every quantized layer (MCSU, arXiv 2401.04339 v2).
        biases: a shift on the bias of every quantized layer that has one.
        norms: a gain per channel of every GroupNorm, LayerNorm and RMSNorm on top of its own weight, and a shift where
            it has a bias.
        group_size: input channels of a group, each of which has gains of output channels of its own; None is one group.
            A layer whose inputs are no groups of this size has one.
    """

    inputs: bool = False
    biases: bool = False
    norms: bool = False
    group_size: int | None = None


OUTPUTS = Parts()


def parts_of(model: nn.Module, names: Iterable[str]) -> Parts:
    """Return the parts of sets with these tensor names, for a model without attached sets."""
    layers, found = _with_codes(model), set(names)
    held_by = {name.rpartition(".")[2] for name in found if name.rpartition(".")[0] in layers}
    norm_names = (f"{name}.gain_out" for name, _ in per_channel.normalizations(model))
    return Parts("gain_in" in held_by, "shift" in held_by, any(name in found for name in norm_names))


def attach_(
    model: nn.Module,
    count: int,
    selection: SetSelection | None = None,
    parts: Parts = OUTPUTS,
    rowless: Sequence[str] = (),
) -> SetSelection:
    """Attach `count` scale sets with neutral values to a model (float32, trainable).

    Args:
        model: has quantized layers.
        count: of sets.
        selection: that chooses the set of each sample; None makes one.
        parts: of a set.
        rowless: patterns of normalizations and of layers of other packages that mix samples into rows, which get none.

    Returns:
        The selection, given or new, that chooses the set of each sample.

    Raises:
        ValueError: when count is below 1, or the model has no quantized layer.
        UserError: when there is no normalization for `parts.norms`, no layer has two groups of inputs of
            `parts.group_size`, or codes are not our own for them.
        RuntimeError: when sets are attached already.
    """
    if count < 1:
        raise ValueError(f"count of scale sets must be at least 1, got {count}")
    layers, selection = _layers(model, rowless), selection or SetSelection()
    if parts.group_size is not None:
        if any(not isinstance(layer, QuantizedLayer) for layer in layers.values()):
            raise stored.without_groups(parts.group_size)
        require_groups(layers.items(), parts.group_size)
    normalizations = norms_of(model, rowless) if parts.norms else {}
    for name in _numbers(model):
        raise RuntimeError(f"scale sets must be attached once, got {name!r} already: call detach_ first")
    for layer in layers.values():
        if isinstance(layer, QuantizedLayer):
            register_sets_(layer, _sizes(layer, parts), count, selection, layer.scale.device)
        else:
            stored.attach_(layer, _sizes(layer, parts), count, selection)
    for norm in normalizations.values():
        per_channel.attach_(norm, count, selection)
    return selection


def norms_of(model: nn.Module, rowless: Sequence[str] = ()) -> dict[str, nn.Module]:
    """Return the normalizations that sets have for `Parts.norms`, by name.

    Raises:
        UserError: when there is none.
    """
    found = {name: norm for name, norm in per_channel.normalizations(model) if not _matches(name, rowless)}
    if not found:
        raise UserError(
            f"tuner.norms=true needs normalizations with weights, and a {type(model).__name__} has none; set "
            "tuner.norms=false"
        )
    return found


def detach_(model: nn.Module) -> None:
    """Remove all sets and the selection, which gives the base again."""
    for _, norm in per_channel.normalizations(model):
        if registered_sets(norm):
            per_channel.detach_(norm)
    for layer in _layers(model).values():
        if isinstance(layer, QuantizedLayer):
            unregister_sets_(layer)
        else:
            stored.detach_(layer)


def parameters(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return the parameters for an optimizer: "gains" (relative, near 1), and "shifts" (additive) where attached.

    Weight decay pulls gains to 0, not to the base: keep it 0.
    """
    kinds: dict[str, list[nn.Parameter]] = {}
    for name, numbers in _attached(model).items():
        kind = "gains" if INITIAL_VALUES[name.rpartition(".")[2]] else "shifts"
        kinds.setdefault(kind, []).append(numbers)
    return kinds


def trainable(model: nn.Module) -> int:
    """Return the number of trainable parameters of all sets."""
    return sum(numbers.numel() for numbers in _attached(model).values())


def read(model: nn.Module) -> Sets:
    """Return a copy of all sets by name (`<module>.gain_out` and so on), in the order of the model."""
    return {name: numbers.detach().clone() for name, numbers in _attached(model).items()}


@torch.no_grad()
def load_(model: nn.Module, values: Mapping[str, Float[Tensor, "sets _n"]]) -> None:
    """Load values into the attached sets; all names and shapes must match.

    Raises:
        UserError: naming the first difference; nothing is loaded then.
        RuntimeError: when no sets are attached.
    """
    attached = _attached(model)
    require_fit(attached, values, "the model", "the scale set")
    for name, numbers in attached.items():
        numbers.copy_(values[name])


def scaled(
    sets: Mapping[str, Float[Tensor, "sets _n"]], shares: Float[Tensor, " sets"]
) -> dict[str, Float[Tensor, "sets _n"]]:
    """Return sets of which set k has the share s_k of its step from the base: 1 + s (g - 1) of gains, s d of shifts.

    A share of 0 is the base, of 1 the set itself, above 1 more than was learned.
    """
    column = shares[:, None]
    return {
        name: (start := INITIAL_VALUES[name.rpartition(".")[2]]) + column.to(rows) * (rows - start)
        for name, rows in sets.items()
    }


def stack(parts: Sequence[Mapping[str, Float[Tensor, "_sets ..."]]]) -> dict[str, Float[Tensor, "_sets ..."]]:
    """Concatenate separately tuned sets or adapters: [K1, ...], [K2, ...], ... become [K1 + K2 + ..., ...].

    Raises:
        ValueError: when there is nothing to concatenate.
        UserError: naming the first difference in names or channels.
    """
    if not parts:
        raise ValueError("there must be at least one scale set to stack, got none")
    first = parts[0]
    for number, part in enumerate(parts[1:], start=2):
        likeness = {name: rows.new_empty(len(part.get(name, rows)), *rows.shape[1:]) for name, rows in first.items()}
        require_fit(likeness, part, "scale set 1", f"scale set {number}")
    return {name: torch.cat([part[name] for part in parts]) for name in first}


def unstack(sets: Mapping[str, Float[Tensor, "_sets ..."]], parts: int) -> list[dict[str, Float[Tensor, "_sets ..."]]]:
    """Split stacked sets into `parts` of equal size; the inverse of `stack` for parts of equal size.

    Raises:
        ValueError: when they cannot be split evenly.
    """
    for name, rows in sets.items():
        if len(rows) % parts:
            raise ValueError(f"{name!r} has {len(rows)} sets, which are no {parts} equal parts")
    split = {name: rows.chunk(parts) for name, rows in sets.items()}
    return [{name: rows[part].clone() for name, rows in split.items()} for part in range(parts)]


def _with_codes(model: nn.Module) -> dict[str, Layer]:
    return {**dict(quantized_layers(model)), **dict(stored.stored_layers(model))}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _layers(model: nn.Module, rowless: Sequence[str] = ()) -> dict[str, Layer]:
    """Return the layers with gains; our own are never rowless (see `Family.require_rows`)."""
    layers = {name: layer for name, layer in _with_codes(model).items() if not _matches(name, rowless)}
    if not layers:
        raise ValueError(f"the model must have quantized layers, got none in {type(model).__name__}")
    return layers


def _sizes(layer: Layer, parts: Parts) -> dict[str, int]:
    """Return the sizes of a set's parameters for a layer, by name."""
    if isinstance(layer, QuantizedLayer):
        outputs, inputs = layer.shape[0], layer.inputs
    else:
        outputs, inputs = stored.channels_of(layer)
    groups = groups_of(layer, parts.group_size)
    sizes = {"gain_out": outputs} if groups == 1 else {"gain_groups": groups * outputs}
    if parts.inputs:
        sizes["gain_in"] = inputs
    if parts.biases and layer.bias is not None:
        sizes["shift"] = outputs
    return sizes


def _numbers(model: nn.Module) -> dict[str, nn.Parameter]:
    holders: dict[str, nn.Module] = {**_with_codes(model), **dict(per_channel.normalizations(model))}
    order = [name for name, _ in model.named_modules() if name in holders]
    return {f"{name}.{key}": numbers for name in order for key, numbers in registered_sets(holders[name]).items()}


def _attached(model: nn.Module) -> dict[str, nn.Parameter]:
    numbers = _numbers(model)
    if not any(f"{name}.{key}" in numbers for key in ("gain_out", "gain_groups") for name in _layers(model)):
        raise RuntimeError("scale sets must be attached to quantized layers: call attach_ first")
    return numbers
