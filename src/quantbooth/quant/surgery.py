"""Replace the float layers of a model by quantized ones, in place and one at a time.

Names are those of `named_modules`; patterns are shell patterns (`fnmatch`) on the whole name, so a block is
"down_blocks.0.*". A layer that reads a concatenation may have a scale for each part of its inputs: `splits` (see
`packed_weight`).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from quantbooth.quant.activations import ActivationQuantizer
from quantbooth.quant.format import Grid
from quantbooth.quant.layers import QuantizedConv2d, QuantizedLayer, QuantizedLinear
from quantbooth.quant.observers import MSEObserver, ScaleSearch
from quantbooth.runtime.errors import UserError

KINDS: dict[type[nn.Module], type[QuantizedLayer]] = {nn.Linear: QuantizedLinear, nn.Conv2d: QuantizedConv2d}

Splits = Mapping[str, tuple[int, ...]]
"""Sizes of the parts of a layer's inputs, by the layer's name."""
NO_SPLITS: Splits = MappingProxyType({})


@dataclass(frozen=True)
class Replaced:
    """One replaced layer: its class ("Linear", "Conv2d"), its weight's shape, and its total bytes, bias included.

    `activations` is the bit-width of its input; None where the input stays float.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    bits: int
    bytes_before: int
    bytes_after: int
    split: tuple[int, ...] = ()
    activations: int | None = None


def quantize_(
    model: nn.Module,
    search: ScaleSearch | int,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    splits: Splits = NO_SPLITS,
) -> list[Replaced]:
    """Quantize the float Linear and Conv2d layers that match an include and no exclude pattern.

    Each float weight is freed before the next layer is quantized. Subclasses of the two stay float. The model is not
    changed when an error about patterns, splits or options is raised. An integer `search` means the MSE search at
    that many bits.

    Raises:
        UserError: for a pattern that matches no float layer, a selection that leaves nothing, a split of a layer that
            is not selected or that does not fit it, or a layer whose options are not supported.
    """
    search = MSEObserver(Grid(search)) if isinstance(search, int) else search
    names = matching(model, include, exclude)
    for name in splits:
        if name not in names:
            raise UserError(f"split layers must be among those to quantize, got {name!r}")
    for name in names:
        like(model.get_submodule(name), name, search.grid.bits, "meta", splits.get(name, ()))
    return [_quantize_one(model, name, search, splits.get(name, ())) for name in names]


def group_splits(model: nn.Module, names: Iterable[str], size: int) -> dict[str, tuple[int, ...]]:
    """Return the groups of `size` inputs of each layer, the last one smaller where `size` does not divide them.

    A layer with no more inputs than that has none, nor has a convolution whose outputs do not see all inputs.
    """
    found = {}
    for name in names:
        layer = model.get_submodule(name)
        inputs = layer.get_parameter("weight").shape[1]
        if inputs > size and getattr(layer, "groups", 1) == 1:
            whole, rest = divmod(inputs, size)
            found[name] = (size,) * whole + ((rest,) if rest else ())
    return found


def empty_like_(model: nn.Module, replaced: Iterable[Replaced]) -> None:
    """Replace the recorded layers by empty quantized ones, so that a state dict can be loaded strictly.

    Works on the meta device. Stride, padding and similar options come from the float layers of `model`.

    Raises:
        UserError: naming the first layer that the model does not have in this class and shape; nothing is changed then.
    """
    records, modules = list(replaced), dict(model.named_modules())
    for record in records:
        expected, found = f"{record.kind} with weight {record.shape}", _describe(modules.get(record.name))
        if found != expected:
            raise UserError(f"quantized layer {record.name!r} does not fit the model: must be {expected}, got {found}")
    for record in records:
        device = modules[record.name].get_parameter("weight").device
        made = like(modules[record.name], record.name, record.bits, device, record.split)
        if record.activations is not None:
            made.input_quantizer = ActivationQuantizer(record.activations, record.split, made.channel, device)
        _swap(model, record.name, made)


def to_json(replaced: Iterable[Replaced]) -> list[dict[str, Any]]:
    """Return records as JSON-compatible data."""
    return [asdict(record) for record in replaced]


def from_json(records: Iterable[dict[str, Any]]) -> list[Replaced]:
    """Return the records of JSON-compatible data; the inverse of `to_json`."""
    return [
        Replaced(**{**record, "shape": tuple(record["shape"]), "split": tuple(record.get("split", ()))})
        for record in records
    ]


def _candidates(model: nn.Module, kinds: Collection[type[nn.Module]]) -> list[str]:
    """Return the names of layers; refuse a layer with two names, which could be replaced under one only."""
    names: dict[int, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) in kinds and name:
            if id(module) in names:
                raise ValueError(f"a layer must have one name, got {names[id(module)]!r} and {name!r} for the same one")
            names[id(module)] = name
    return list(names.values())


def matching(
    model: nn.Module,
    include: Sequence[str],
    exclude: Sequence[str],
    kinds: Collection[type[nn.Module]] = tuple(KINDS),
    description: str = "a float Linear or Conv2d layer",
) -> list[str]:
    """Return the names of the layers that match an include and no exclude pattern, in the order of the model.

    Args:
        model: to search.
        include: patterns.
        exclude: patterns.
        kinds: classes of the layers.
        description: a description of them, for the message.

    Raises:
        UserError: for a pattern that matches no such layer, or a selection that leaves nothing.
    """
    names = _candidates(model, kinds)
    for kind, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise UserError(f"{kind} pattern {pattern!r} must match {description}, got none")
    chosen = [name for name in names if _any(name, include) and not _any(name, exclude)]
    if not chosen:
        raise UserError(f"include {list(include)} without exclude {list(exclude)} must leave a layer, got none")
    return chosen


def _any(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _quantize_one(model: nn.Module, name: str, search: ScaleSearch, split: tuple[int, ...]) -> Replaced:
    layer = model.get_submodule(name)
    with of_layer(name):
        return replace_(model, name, KINDS[type(layer)].from_float(layer, search, split))


def replace_(model: nn.Module, name: str, made: QuantizedLayer) -> Replaced:
    """Replace a float layer by the quantized one that was made from it."""
    layer = model.get_submodule(name)
    _swap(model, name, made)
    return Replaced(name, type(layer).__name__, made.shape, made.bits, _bytes(layer), _bytes(made), made.split)


def like(layer: nn.Module, name: str, bits: int, device: torch.device | str, split: tuple[int, ...]) -> QuantizedLayer:
    """Return an empty quantized layer with the configuration of the float layer of that name.

    Raises:
        UserError: naming the layer, when its options are not supported.
    """
    with of_layer(name):
        return KINDS[type(layer)].like(layer, bits, device, split)


@contextmanager
def of_layer(name: str) -> Iterator[None]:
    """Name the layer in the message of a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"layer {name!r}: {error}") from error


def with_inputs(model: nn.Module, replaced: Iterable[Replaced], bits: int) -> list[Replaced]:
    """Return the records with the input bits and the new sizes of layers whose inputs are now quantized."""
    layers = {record.name: model.get_submodule(record.name) for record in replaced}
    return [replace(record, activations=bits, bytes_after=_bytes(layers[record.name])) for record in replaced]


def _swap(model: nn.Module, name: str, made: QuantizedLayer) -> None:
    parent, _, child = name.rpartition(".")
    made.train(model.get_submodule(name).training)
    setattr(model.get_submodule(parent), child, made)


def _describe(layer: nn.Module | None) -> str:
    if layer is None or type(layer) not in KINDS:
        return "no such layer" if layer is None else type(layer).__name__
    return f"{type(layer).__name__} with weight {tuple(layer.get_parameter('weight').shape)}"


def _bytes(layer: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*layer.parameters(), *layer.buffers()))
