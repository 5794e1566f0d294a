"""Weights in parts: each part is stored like a separate weight, and the layer is the sum over its parts."""

import copy
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantbooth.quant.format import BITS, Grid, packed_width
from quantbooth.quant.kernels import choice as kernels
from quantbooth.quant.layers import QuantizedConv2d, QuantizedLayer, QuantizedLinear
from quantbooth.quant.observers import MinMaxObserver, MSEObserver
from quantbooth.quant.packed_weight import Packed
from quantbooth.quant.scale_sets import Parts, attach_
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import KINDS, group_splits
from quantbooth.runtime.errors import UserError

SPLIT = (5, 3)
MAKERS: dict[str, Callable[[int], nn.Module]] = {
    "linear": lambda inputs: nn.Linear(inputs, 6),
    "shortcut": lambda inputs: nn.Conv2d(inputs, 6, 1),
    "conv": lambda inputs: nn.Conv2d(inputs, 6, 3, padding=1, stride=2),
}
kinds = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def float_layer(make: Callable[[int], nn.Module]) -> nn.Module:
    """The second part of its inputs has weights ten times as large."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = make(sum(SPLIT))
    with torch.no_grad():
        layer.get_parameter("weight")[:, SPLIT[0] :] *= 10
    return layer


def quantized(layer: nn.Module, bits: int, split: tuple[int, ...] = ()) -> QuantizedLayer:
    return KINDS[type(layer)].from_float(layer, MinMaxObserver(Grid(bits)), split)


def halves(layer: nn.Module, make: Callable[[int], nn.Module]) -> list[nn.Module]:
    """A float layer for each part of the inputs; the first has the bias."""
    made: list[nn.Module] = []
    for part, weight in zip(SPLIT, layer.get_parameter("weight").split(SPLIT, dim=1), strict=True):
        half = make(part)
        half.load_state_dict({"weight": weight, "bias": layer.get_parameter("bias") * (not made)})
        made.append(half)
    return made


def inputs(layer: QuantizedLayer) -> Tensor:
    tail = (5, 4) if isinstance(layer, QuantizedConv2d) else ()
    return torch.randn(3, layer.inputs, *tail, generator=torch.Generator().manual_seed(1))


@kinds
@pytest.mark.parametrize("bits", BITS)
def test_each_part_is_stored_as_a_weight_of_its_own(make: Callable[[int], nn.Module], bits: int) -> None:
    layer = float_layer(make)
    ours, alone = quantized(layer, bits, SPLIT), [quantized(half, bits) for half in halves(layer, make)]
    assert torch.equal(ours.codes, torch.cat([half.codes for half in alone], dim=1))
    assert torch.equal(ours.scale, torch.stack([half.scale for half in alone]))
    assert torch.equal(ours.zero, torch.stack([half.zero for half in alone]))
    torch.testing.assert_close(ours.dequantized(), torch.cat([half.dequantized() for half in alone], dim=1))
    x, y = inputs(ours), ours(inputs(ours))
    parts = [half(part) for half, part in zip(alone, x.split(SPLIT, dim=1), strict=True)]
    torch.testing.assert_close(y, parts[0] + parts[1], rtol=1e-5, atol=1e-5)


@kinds
def test_a_scale_for_each_part_loses_less_where_their_ranges_differ(make: Callable[[int], nn.Module]) -> None:
    layer = float_layer(make)
    weight = layer.get_parameter("weight").detach()
    narrow, wide = ((quantized(layer, 4, split).dequantized() - weight)[:, : SPLIT[0]].norm() for split in (SPLIT, ()))
    assert narrow < 0.2 * wide


@kinds
@pytest.mark.parametrize("bits", BITS)
def test_parts_cost_a_scale_and_a_zero_point_each(make: Callable[[int], nn.Module], bits: int) -> None:
    ours = quantized(float_layer(make), bits, SPLIT)
    rest = ours.dequantized()[0, 0].numel()
    assert ours.codes.shape == (6, sum(packed_width(bits, part * rest) for part in SPLIT))
    assert (ours.scale.shape, ours.zero.shape, ours.zero.dtype) == ((2, 6), (2, 6), torch.uint8)
    assert f"split={SPLIT}" in repr(ours)


@kinds
def test_gains_of_a_layer_in_parts_act_as_in_any_other(make: Callable[[int], nn.Module]) -> None:
    """y = g_out * (W (g_in * x)) + b + shift with the W of all parts; sample 1 is the base's."""
    ours = quantized(float_layer(make), 4, SPLIT)
    x, base, selection = inputs(ours), ours(inputs(ours)), SetSelection()
    attach_(ours, 1, selection, Parts(inputs=True, biases=True))
    shapes = {name: tuple(numbers.shape) for name, numbers in ours.named_parameters()}
    assert shapes == {"gain_in": (1, 8), "gain_out": (1, 6), "shift": (1, 6)}
    with torch.no_grad():
        for numbers in ours.parameters():
            numbers.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(2))
    selection.choose(torch.tensor([1, 0, 1]))
    with torch.no_grad():
        y = ours(x)
        gain_in, gain_out, shift = (ours.get_parameter(name)[0] for name in ("gain_in", "gain_out", "shift"))
        tail = [1] * (x.ndim - 2)
        plain = float_layer(make)
        plain.load_state_dict({"weight": ours.dequantized(), "bias": torch.zeros(6)})
        expected = gain_out.view(-1, *tail) * plain(x * gain_in.view(-1, *tail))
        expected = expected + (plain_bias(ours) + shift).view(-1, *tail)
    torch.testing.assert_close(y[0::2], expected[0::2], rtol=1e-5, atol=1e-5)
    assert torch.equal(y[1], base[1])


def plain_bias(layer: QuantizedLayer) -> Tensor:
    assert layer.bias is not None
    return layer.bias


@kinds
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_state_dict_and_a_deep_copy_keep_the_parts(make: Callable[[int], nn.Module], device: str) -> None:
    layer = float_layer(make)
    ours, plain = quantized(layer, 3, SPLIT), quantized(layer, 3)
    empty = type(ours).like(layer, 3, device, SPLIT)
    empty.load_state_dict(ours.state_dict(), strict=True, assign=device == "meta")
    x = inputs(ours)
    assert torch.equal(empty(x), ours(x))
    assert torch.equal(copy.deepcopy(ours)(x), ours(x))
    with pytest.raises(RuntimeError, match="size mismatch for scale"):
        plain.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("split", [(8,), (5, 4), (9, -1), (8, 0), (4, 3)])
def test_refuses_parts_that_do_not_make_up_the_inputs(split: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"split must be two or more sizes >= 1 with the sum 8, got \("):
        Packed(4, (6, 8, 3, 3), split)
    with pytest.raises(UserError, match="with the sum 8"):
        QuantizedLinear(8, 6, 4, split=split)


def test_refuses_parts_of_a_grouped_convolution() -> None:
    with pytest.raises(UserError, match="where every output sees them all, got groups=2"):
        QuantizedConv2d.from_float(nn.Conv2d(8, 6, 3, groups=2), MSEObserver(Grid(4)), (2, 2))


@pytest.mark.parametrize("layer", [nn.Linear(5, 3), nn.Conv2d(4, 6, 3)], ids=["linear", "convolution"])
def test_a_new_layer_is_zero_until_it_is_filled(layer: nn.Module) -> None:
    kind = QuantizedLinear if isinstance(layer, nn.Linear) else QuantizedConv2d
    made = kind.like(layer, 4)
    assert made.bias is not None
    assert not made.dequantized().any()
    assert not made.bias.any()
    assert not made(torch.ones(2, *([5] if isinstance(layer, nn.Linear) else [4, 5, 5]))).any()


@kinds
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("size", [2, 4])
def test_groups_of_one_size_are_stored_as_weights_of_their_own_too(
    make: Callable[[int], nn.Module], bits: int, size: int
) -> None:
    """They are read as rows, not part by part."""
    layer = float_layer(make)
    weight = layer.get_parameter("weight").detach()
    made = quantized(layer, bits, (size,) * (8 // size))
    parts = []
    for place, part in enumerate(weight.split(size, dim=1)):
        own = Packed(bits, tuple(part.shape))
        scale, zero = own.fit(part, MinMaxObserver(Grid(bits)))
        assert torch.equal(made.scale[place], scale)
        assert torch.equal(made.zero[place], zero.to(torch.uint8))
        parts.append(made.form.integers(made.codes).split(size, dim=1)[place] - zero.view(-1, *[1] * (part.ndim - 1)))
        parts[-1] = parts[-1] * scale.view(-1, *[1] * (part.ndim - 1))
    assert torch.equal(made.dequantized(), torch.cat(parts, dim=1))
    assert torch.equal(made.form.store(made.form.integers(made.codes)), made.codes)
    rows = slice(1, 4)
    some = made.form.weight(made.codes[rows], made.scale[:, rows], made.zero[:, rows], torch.float32)
    assert torch.equal(some, made.dequantized()[rows])
    between = made.form.weight(made.codes, made.scale, made.zero.float() + 0.25, torch.float32)
    shifted = made.dequantized() - 0.25 * made.form.spread(made.scale)
    torch.testing.assert_close(between, shifted)
    assert (made.dequantized() - weight).abs().mean() < (quantized(layer, bits).dequantized() - weight).abs().mean()


@pytest.mark.usefixtures("interpreted")
def test_groups_of_one_size_are_dequantized_by_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    fused = import_module("quantbooth.quant.kernels.fused")  # in the interpreter
    made = quantized(nn.Linear(32, 6), 4, (8,) * 4)
    eager = made.dequantized()
    launches: list[int] = []
    real = fused.dequantize

    def counted(codes: Tensor, *others: Any) -> Tensor:
        launches.append(len(codes))
        made: Tensor = real(codes, *others)
        return made

    monkeypatch.setattr(fused, "dequantize", counted)
    with kernels.use(kernels.FUSED):
        assert torch.equal(made.dequantized(), eager)
    assert launches == [24]


def test_groups_of_layers_end_with_what_is_left_over() -> None:
    model = nn.ModuleDict(
        {
            "even": nn.Linear(32, 4),
            "rest": nn.Linear(20, 4),
            "small": nn.Linear(8, 4),
            "conv": nn.Conv2d(16, 4, 3),
            "depthwise": nn.Conv2d(16, 16, 3, groups=16),
            "grouped": nn.Conv2d(32, 32, 3, groups=2),
        }
    )
    found = group_splits(model, model, 8)
    assert found == {"even": (8,) * 4, "rest": (8, 8, 4), "conv": (8, 8)}
    assert group_splits(model, ["small"], 4) == {"small": (4, 4)}
