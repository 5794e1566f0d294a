"""Memory of quantized layers: no float tensor of a weight's size is saved, for all kinds of trainable parameters."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from quantbooth.quant.format import BITS, Grid
from quantbooth.quant.group_gains import groups_of
from quantbooth.quant.layers import QuantizedLayer
from quantbooth.quant.observers import MinMaxObserver, MSEObserver, ScaleSearch
from quantbooth.quant.scale_sets import OUTPUTS, Parts, attach_
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import KINDS, quantize_

Kept = Callable[..., tuple[list[Tensor], Tensor]]
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(64, 48), (2, 4, 64), ()),
    "linear in parts": (lambda: nn.Linear(64, 48), (2, 4, 64), (40, 24)),
    "pointwise": (lambda: nn.Conv2d(64, 48, 1), (2, 64, 3, 3), ()),
    "pointwise in parts": (lambda: nn.Conv2d(64, 48, 1), (2, 64, 3, 3), (40, 24)),
    "conv": (lambda: nn.Conv2d(16, 24, 3, padding=1), (2, 16, 5, 5), ()),
    "conv in parts": (lambda: nn.Conv2d(16, 24, 3, padding=1), (2, 16, 5, 5), (10, 6)),
    "conv strided, dilated": (lambda: nn.Conv2d(16, 24, 3, stride=2, dilation=2), (2, 16, 7, 7), ()),
    "conv grouped": (lambda: nn.Conv2d(32, 48, 3, groups=2, bias=False), (2, 32, 5, 5), ()),
}
KINDS_OF_PARTS = OUTPUTS, Parts(inputs=True), Parts(biases=True), Parts(True, True)
EVERY_PART = pytest.mark.parametrize("parts", [*KINDS_OF_PARTS, Parts(True, group_size=8)])


@pytest.fixture(params=LAYERS)
def layer_and_input(request: pytest.FixtureRequest) -> tuple[QuantizedLayer, Tensor]:
    """A layer whose weight is larger than every activation, and its input."""
    make, shape, split = LAYERS[request.param]
    layer, x = make(), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ours = KINDS[type(layer)].from_float(layer, MinMaxObserver(Grid(4)), split)
    assert max(x.numel(), ours(x).numel()) < weight_size(ours)
    return ours, x


def weight_size(layer: QuantizedLayer) -> int:
    return layer.dequantized().numel()


def with_sets(layer: QuantizedLayer, parts: Parts) -> None:
    selection = SetSelection()
    grouped = groups_of(layer, parts.group_size) > 1
    attach_(layer, 2, selection, parts if grouped else replace(parts, group_size=None))
    selection.choose(torch.tensor([2, 1]))


class FloatBytes(TorchDispatchMode):
    """Counts the bytes of float tensors that come into being inside: of those still there, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self.note(tensor.untyped_storage())
        self.most = max(self.most, sum(self.alive.values()))
        return result

    def note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.alive:
            self.alive[key] = storage.nbytes()
            weakref.finalize(storage, self.alive.pop, key)


@EVERY_PART
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_autograd_keeps_no_float_of_the_weights_size(
    layer_and_input: tuple[QuantizedLayer, Tensor], kept: Kept, parts: Parts, dtype: torch.dtype, autocast: bool
) -> None:
    """The guard of the product: with it, memory is packed codes and activations."""
    layer, x = layer_and_input
    with_sets(layer, parts)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        saved, _ = kept(layer, x.to(dtype).requires_grad_())
    floats = [tensor.untyped_storage().nbytes() // tensor.itemsize for tensor in saved if tensor.is_floating_point()]
    assert floats
    assert max(floats) < weight_size(layer)
    assert any(tensor.data_ptr() == layer.codes.data_ptr() for tensor in saved)


@EVERY_PART
@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_step_forms_one_weight_at_a_time_and_leaves_none(
    layer_and_input: tuple[QuantizedLayer, Tensor], parts: Parts, checkpointed: bool
) -> None:
    """At the most the weight and a few activations are there at once."""
    layer, x = layer_and_input
    with_sets(layer, parts)
    x.requires_grad_()
    weight, gains = 4 * weight_size(layer), 4 * layer.gain_groups.numel() if layer.gain_groups is not None else 0
    with FloatBytes() as floats:
        y = checkpoint(layer, x, use_reentrant=False) if checkpointed else layer(x)
        after_forward = dict(floats.alive)
        y.square().sum().backward()
    assert weight <= floats.most <= weight + 6 * 4 * max(x.numel(), y.numel()) + 6 * gains + 4 * 2**10
    assert max(after_forward.values()) < weight
    assert max(floats.alive.values()) < weight
    assert x.grad is not None


@pytest.mark.parametrize("search", [MinMaxObserver, MSEObserver])
@pytest.mark.parametrize("bits", BITS)
def test_quantizing_never_holds_a_second_model(search: type[ScaleSearch], bits: int) -> None:
    """Beside the model itself: what one layer's quantization takes, not what the layers before it took."""
    with FloatBytes() as floats:
        model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(6)), nn.Conv2d(16, 24, 3))
        before = sum(floats.alive.values())
        assert before == sum(parameter.nbytes for parameter in model.parameters())
        floats.most = 0
        replaced = quantize_(model, search(Grid(bits)))
    largest = max(record.bytes_before for record in replaced)
    assert floats.most <= before + 5 * largest
    assert sum(floats.alive.values()) == sum(4 * 2 * record.shape[0] for record in replaced)  # scales and biases
    assert sum(record.bytes_before for record in replaced) == before
    assert sum(record.bytes_after for record in replaced) == sum(tensor.nbytes for tensor in model.buffers())
