"""Quantized layers: from float, from a state dict, per sample."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantbooth.quant.format import BITS, Grid, packed_width
from quantbooth.quant.layers import QuantizedConv2d, QuantizedLayer, QuantizedLinear, quantized_layers
from quantbooth.quant.observers import MinMaxObserver, MSEObserver
from quantbooth.quant.scale_sets import OUTPUTS, Parts, attach_
from quantbooth.quant.selection import SetSelection
from quantbooth.runtime.errors import UserError

MAKERS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "linear": lambda: (nn.Linear(7, 5), torch.randn(3, 4, 7)),
    "linear without bias": lambda: (nn.Linear(7, 5, bias=False), torch.randn(3, 7)),
    "conv": lambda: (nn.Conv2d(4, 6, 3, padding=1), torch.randn(3, 4, 5, 5)),
    "conv strided": lambda: (nn.Conv2d(4, 6, (3, 2), stride=2, padding=(1, 0)), torch.randn(3, 4, 7, 6)),
    "conv dilated": lambda: (nn.Conv2d(4, 6, 3, dilation=(2, 1), bias=False), torch.randn(3, 4, 7, 7)),
    "conv grouped": lambda: (nn.Conv2d(4, 6, 3, groups=2, padding="valid"), torch.randn(3, 4, 5, 5)),
}
every_kind = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def seeded(make: Callable[[], tuple[nn.Module, Tensor]]) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def quantized(layer: nn.Module, bits: int = 4) -> QuantizedLayer:
    kind = QuantizedLinear if isinstance(layer, nn.Linear) else QuantizedConv2d
    return kind.from_float(layer, MinMaxObserver(Grid(bits)))


def with_sets(layer: QuantizedLayer, count: int = 2, parts: Parts = OUTPUTS) -> SetSelection:
    """Attach random sets."""
    selection, generator = SetSelection(), torch.Generator().manual_seed(1)
    attach_(layer, count, selection, parts)
    with torch.no_grad():
        for numbers in layer.parameters():
            numbers.uniform_(0.5, 1.5, generator=generator)
    return selection


EVERY_PART = pytest.mark.parametrize("parts", [OUTPUTS, Parts(inputs=True), Parts(biases=True), Parts(True, True)])


@every_kind
@pytest.mark.parametrize("bits", BITS)
def test_computes_what_the_float_layer_does_with_the_rounded_weight(
    make: Callable[[], tuple[nn.Module, Tensor]], bits: int
) -> None:
    layer, x = seeded(make)
    ours = quantized(layer, bits)
    weight = layer.get_parameter("weight")
    step = ours.scale.view(-1, *[1] * (weight.ndim - 1))
    assert ((ours.dequantized() - weight).abs() <= 1.001 * step).all()
    with torch.no_grad():
        weight.copy_(ours.dequantized())
        torch.testing.assert_close(ours(x), layer(x))
    assert ours.codes.shape == (weight.shape[0], packed_width(bits, weight[0].numel()))
    assert list(ours.parameters()) == []


@every_kind
@EVERY_PART
def test_index_zero_is_the_base_layer_bit_for_bit(make: Callable[[], tuple[nn.Module, Tensor]], parts: Parts) -> None:
    layer, x = seeded(make)
    ours = quantized(layer)
    base = ours(x)
    selection = with_sets(ours, parts=parts)
    selection.choose(torch.zeros(3, dtype=torch.int64))
    assert torch.equal(ours(x), base)
    selection.choose(torch.tensor([1, 0, 2]))
    torch.testing.assert_close(ours(x)[1], base[1], rtol=0, atol=0)
    assert not torch.equal(ours(x)[0], base[0])


@every_kind
@EVERY_PART
def test_a_mixed_batch_equals_separate_calls(make: Callable[[], tuple[nn.Module, Tensor]], parts: Parts) -> None:
    layer, x = seeded(make)
    ours = quantized(layer)
    selection = with_sets(ours, parts=parts)
    index = torch.tensor([2, 0, 1])

    def value_and_gradients(x: Tensor, index: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
        selection.choose(index)
        x = x.clone().requires_grad_()
        y = ours(x)
        return y.detach(), *torch.autograd.grad(y, [x, *ours.parameters()], dy)

    selection.choose(index)
    dy = torch.randn(ours(x).shape, generator=torch.Generator().manual_seed(2))
    y, dx, *numbers = value_and_gradients(x, index, dy)
    singles = [value_and_gradients(x[i : i + 1], index[i : i + 1], dy[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(y, torch.cat([single[0] for single in singles]))
    torch.testing.assert_close(dx, torch.cat([single[1] for single in singles]))
    for number, gradient in enumerate(numbers):
        torch.testing.assert_close(gradient, torch.stack([single[2 + number] for single in singles]).sum(0))


@every_kind
def test_a_set_is_a_float_layer_with_its_own_weight_and_bias(make: Callable[[], tuple[nn.Module, Tensor]]) -> None:
    """w[o, i] = gain_out[o] w0[o, i] gain_in[i] and b = b0 + shift; sample i as its set says, the base among them."""
    layer, x = seeded(make)
    ours = quantized(layer)
    index, groups = torch.tensor([2, 0, 1]), getattr(layer, "groups", 1)
    with_sets(ours, parts=Parts(inputs=True, biases=True)).choose(index)
    with torch.no_grad():
        y = ours(x)
        start = {"gain_in": torch.ones(1, ours.inputs), "gain_out": torch.ones(1, ours.shape[0])}
        rows = {name: torch.cat([start[name], ours.get_parameter(name)])[index] for name in start}
        tail = [1] * (len(ours.shape) - 2)
        for i, k in enumerate(index.tolist()):
            seen = rows["gain_in"][i].view(groups, 1, -1).expand(-1, ours.shape[0] // groups, -1)
            weight = ours.dequantized() * seen.reshape(*ours.shape[:2], *tail)
            layer.get_parameter("weight").copy_(weight * rows["gain_out"][i].view(-1, 1, *tail))
            if ours.bias is not None:
                shift = 0 if k == 0 else ours.get_parameter("shift")[k - 1]
                layer.get_parameter("bias").copy_(ours.bias + shift)
            torch.testing.assert_close(y[i : i + 1], layer(x[i : i + 1]), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_kind
def test_a_gpu_computes_the_same(make: Callable[[], tuple[nn.Module, Tensor]]) -> None:
    """In float64, where no other order of summing nor TF32 is seen."""
    layer, x = seeded(make)
    ours = quantized(layer, bits=3)
    with_sets(ours, parts=Parts(True, True)).choose(torch.tensor([2, 0, 1]))

    def value_and_gradients(device: str) -> list[Tensor]:
        ours.to(device)
        leaf = x.double().to(device).requires_grad_()
        y = ours(leaf)
        return [tensor.cpu() for tensor in (y, *torch.autograd.grad(y.square().sum(), [leaf, *ours.parameters()]))]

    for cpu, cuda in zip(value_and_gradients("cpu"), value_and_gradients("cuda"), strict=True):
        torch.testing.assert_close(cuda, cpu, rtol=1e-5, atol=1e-5)


@every_kind
def test_doubling_one_gain_of_the_input_is_doubling_that_channel_of_x(
    make: Callable[[], tuple[nn.Module, Tensor]],
) -> None:
    layer, x = seeded(make)
    ours = quantized(layer)
    with_sets(ours, parts=Parts(inputs=True)).choose(torch.tensor([2, 1, 2]))
    before, axis = ours(x), 1 if isinstance(ours, QuantizedConv2d) else -1
    with torch.no_grad():
        ours.get_parameter("gain_in")[1, 2] *= 2
    after = ours(x)
    doubled = x.clone()
    doubled.movedim(axis, 1)[0::2, 2] *= 2
    with torch.no_grad():
        ours.get_parameter("gain_in")[1, 2] /= 2
    torch.testing.assert_close(after, ours(doubled))
    assert torch.equal(after[1], before[1])
    assert not torch.equal(after[0], before[0])


def test_what_a_set_holds_has_the_sizes_of_the_layer() -> None:
    for make, shapes in (
        ("conv grouped", {"gain_in": (2, 4), "gain_out": (2, 6), "shift": (2, 6)}),
        ("linear without bias", {"gain_in": (2, 7), "gain_out": (2, 5)}),
    ):
        ours = quantized(seeded(MAKERS[make])[0])
        with_sets(ours, parts=Parts(inputs=True, biases=True))
        assert {name: tuple(numbers.shape) for name, numbers in ours.named_parameters()} == shapes


def test_gradients_of_one_set_come_from_its_own_samples_only() -> None:
    layer, x = seeded(MAKERS["linear"])
    ours = quantized(layer)
    with_sets(ours, 3, Parts(inputs=True, biases=True)).choose(torch.tensor([0, 3, 3]))
    ours(x).square().sum().backward()
    for numbers in ours.parameters():
        assert numbers.grad is not None
        assert (numbers.grad[:2] == 0).all()
        assert (numbers.grad[2] != 0).any()


def test_raises_while_the_selection_is_unset_or_of_another_batch() -> None:
    layer, x = seeded(MAKERS["conv"])
    ours = quantized(layer)
    selection = with_sets(ours)
    with pytest.raises(RuntimeError, match="must be chosen for every sample"):
        ours(x)
    selection.choose(torch.tensor([1, 2]))
    with pytest.raises(RuntimeError, match="chosen for 2 samples, got 3"):
        ours(x)
    selection.choose(torch.tensor([1, 2, 3]))
    with pytest.raises(RuntimeError, match=r"sets in \[0, 2\], got 3"):
        ours(x)
    ours.selection = None
    with pytest.raises(RuntimeError, match="must have a selection"):
        ours(x)


def test_refuses_inputs_without_a_batch_axis() -> None:
    conv, linear = QuantizedConv2d(4, 6, 3, 4), QuantizedLinear(7, 5, 4)
    with pytest.raises(ValueError, match=r"x must be \[b, in, h, w\], got shape \(4, 5, 5\)"):
        conv(torch.zeros(4, 5, 5))
    with pytest.raises(ValueError, match=r"x must be \[b, ..., in\], got shape \(7,\)"):
        linear(torch.zeros(7))


@pytest.mark.parametrize("options", [{"padding_mode": "reflect", "padding": 1}, {"padding": "same"}])
def test_refuses_padding_it_does_not_cover(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must pad with zeros"):
        QuantizedConv2d.from_float(nn.Conv2d(4, 6, 3, **options), MinMaxObserver(Grid(4)))


def test_refuses_layers_of_another_kind_and_other_bits() -> None:
    with pytest.raises(TypeError, match=r"must be an nn.Conv2d, got Linear"):
        QuantizedConv2d.from_float(nn.Linear(3, 3), MinMaxObserver(Grid(4)))
    with pytest.raises(TypeError, match=r"must be an nn.Linear, got Conv2d"):
        QuantizedLinear.from_float(nn.Conv2d(3, 3, 1), MinMaxObserver(Grid(4)))
    with pytest.raises(UserError, match="bits must be one of"):
        QuantizedLinear(3, 3, 5)
    with pytest.raises(ValueError, match="groups must divide"):
        QuantizedConv2d(4, 6, 3, 4, groups=3)


@every_kind
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_state_dict_makes_an_empty_layer_whole(
    make: Callable[[], tuple[nn.Module, Tensor]], bits: int, device: str
) -> None:
    layer, x = seeded(make)
    ours = quantized(layer, bits)
    empty = type(ours).like(layer, bits, device)
    assert empty.codes.device.type == device
    empty.load_state_dict(ours.state_dict(), strict=True, assign=device == "meta")
    assert torch.equal(empty(x), ours(x))
    assert {name: value.dtype for name, value in empty.state_dict().items()} == {
        name: torch.uint8 if name in {"codes", "zero"} else torch.float32 for name in ours.state_dict()
    }


def test_a_state_dict_of_other_bits_is_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for codes"):
        QuantizedLinear(16, 5, 3).load_state_dict(QuantizedLinear(16, 5, 4).state_dict())


def test_gains_travel_in_the_state_dict() -> None:
    ours, twin = QuantizedLinear(7, 5, 4), QuantizedLinear(7, 5, 4)
    with_sets(ours, parts=Parts(True, True))
    attach_(twin, 2, SetSelection(), Parts(True, True))
    twin.load_state_dict(ours.state_dict())
    for one, other in zip(ours.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)


@every_kind
def test_a_deep_copy_computes_the_same_and_learns_apart(make: Callable[[], tuple[nn.Module, Tensor]]) -> None:
    layer, x = seeded(make)
    ours = quantized(layer)
    with_sets(ours).choose(torch.tensor([0, 1, 2]))
    other = copy.deepcopy(ours)
    before = ours(x)
    assert torch.equal(other(x), before)
    with torch.no_grad():
        other.get_parameter("gain_out").mul_(2)
    assert torch.equal(ours(x), before)
    assert not torch.equal(other(x), before)


def test_the_float_layer_is_not_kept_alive_nor_shared() -> None:
    layer = nn.Linear(7, 5)
    ours = quantized(layer)
    with torch.no_grad():
        layer.bias.zero_()
    assert ours.bias is not None
    assert not ours.bias.requires_grad
    assert (ours.bias != 0).any()
    assert ours.scale.untyped_storage().nbytes() == 5 * 4


def test_half_precision_layers_keep_their_bias_and_get_float32_scales() -> None:
    ours = QuantizedConv2d.from_float(nn.Conv2d(4, 6, 3).half(), MSEObserver(Grid(4)))
    assert ours.bias is not None
    assert ours.bias.dtype == torch.float16
    assert ours.scale.dtype == torch.float32
    assert ours(torch.randn(2, 4, 5, 5).half()).dtype == torch.float16
    assert ours(torch.randn(2, 4, 5, 5)).dtype == torch.float32


def test_quantized_layers_are_found_with_their_names() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(QuantizedLinear(2, 2, 4)), QuantizedConv2d(2, 2, 1, 8))
    assert [name for name, _ in quantized_layers(model)] == ["1.0", "2"]
    assert "bits=8" in repr(model)
