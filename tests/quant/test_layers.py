"""Quantized layers: from float, from a state dict, per sample, under checkpointing."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from quantbooth.errors import UserError
from quantbooth.quant.grid import BITS, Grid
from quantbooth.quant.layers import QuantizedConv2d, QuantizedLayer, QuantizedLinear, quantized_layers
from quantbooth.quant.packing import packed_width
from quantbooth.quant.scale_search import MSE, MinMax
from quantbooth.quant.scale_sets import attach_
from quantbooth.quant.selection import Selection

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
    return kind.from_float(layer, MinMax(Grid(bits)))


def with_sets(layer: QuantizedLayer, count: int = 2) -> Selection:
    """Attach random sets."""
    selection = Selection()
    attach_(layer, count, selection)
    assert layer.gain is not None
    with torch.no_grad():
        layer.gain.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
    return selection


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
def test_index_zero_is_the_base_layer_bit_for_bit(make: Callable[[], tuple[nn.Module, Tensor]]) -> None:
    layer, x = seeded(make)
    ours = quantized(layer)
    base = ours(x)
    with_sets(ours).choose(torch.zeros(3, dtype=torch.int64))
    assert torch.equal(ours(x), base)


@every_kind
def test_a_mixed_batch_equals_separate_calls(make: Callable[[], tuple[nn.Module, Tensor]]) -> None:
    layer, x = seeded(make)
    ours = quantized(layer)
    selection = with_sets(ours)
    index = torch.tensor([2, 0, 1])
    assert ours.gain is not None

    def value_and_gradients(x: Tensor, index: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        selection.choose(index)
        x = x.clone().requires_grad_()
        y = ours(x)
        dx, dgain = torch.autograd.grad(y, [x, *ours.parameters()], dy)
        return y.detach(), dx, dgain

    selection.choose(index)
    dy = torch.randn(ours(x).shape, generator=torch.Generator().manual_seed(2))
    y, dx, dgain = value_and_gradients(x, index, dy)
    singles = [value_and_gradients(x[i : i + 1], index[i : i + 1], dy[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(y, torch.cat([single[0] for single in singles]))
    torch.testing.assert_close(dx, torch.cat([single[1] for single in singles]))
    torch.testing.assert_close(dgain, torch.stack([single[2] for single in singles]).sum(0))
    rows = torch.cat([torch.ones(1, ours.shape[0]), ours.gain.detach()])[index]
    weights = ours.dequantized() * rows.view(3, -1, *[1] * (len(ours.shape) - 1))
    for i, weight in enumerate(weights):
        with torch.no_grad():
            layer.get_parameter("weight").copy_(weight)
            torch.testing.assert_close(y[i : i + 1], layer(x[i : i + 1]), rtol=1e-5, atol=1e-5)


def test_gradients_of_one_set_come_from_its_own_samples_only() -> None:
    layer, x = seeded(MAKERS["linear"])
    ours = quantized(layer)
    with_sets(ours, 3).choose(torch.tensor([0, 3, 3]))
    ours(x).square().sum().backward()
    assert ours.gain is not None
    assert ours.gain.grad is not None
    assert (ours.gain.grad[:2] == 0).all()
    assert (ours.gain.grad[2] != 0).any()


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
        QuantizedConv2d.from_float(nn.Conv2d(4, 6, 3, **options), MinMax(Grid(4)))


def test_refuses_layers_of_another_kind_and_other_bits() -> None:
    with pytest.raises(TypeError, match=r"must be an nn.Conv2d, got Linear"):
        QuantizedConv2d.from_float(nn.Linear(3, 3), MinMax(Grid(4)))
    with pytest.raises(TypeError, match=r"must be an nn.Linear, got Conv2d"):
        QuantizedLinear.from_float(nn.Conv2d(3, 3, 1), MinMax(Grid(4)))
    with pytest.raises(UserError, match="bits must be one of"):
        QuantizedLinear(3, 3, 5)
    with pytest.raises(ValueError, match="groups must divide"):
        QuantizedConv2d(4, 6, 3, 4, groups=3)


class Blocks(nn.Module):
    """Three blocks of both kinds that can be checkpointed; with relu, as silu's own backward depends on the layout."""

    def __init__(self, mode: bool | None) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            float_layers = [nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 6)]
        self.layers = nn.ModuleList(quantized(layer) for layer in float_layers)
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(0, x)
        x = self.block(1, x)
        return self.block(2, x.flatten(2).transpose(1, 2))

    def block(self, number: int, x: Tensor) -> Tensor:
        layer = self.layers[number]

        def body(x: Tensor) -> Tensor:
            y: Tensor = layer(x)
            return F.relu(y)

        if self.mode is None:
            return body(x)
        y: Tensor = checkpoint(body, x, use_reentrant=self.mode)
        return y


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("low", [0.5, 0.0])
def test_checkpointing_changes_no_bit(reentrant: bool, dtype: torch.dtype, autocast: bool, low: float) -> None:
    x = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(3)).to(dtype)

    def outcome(mode: bool | None) -> list[Tensor]:
        model, selection, leaf = Blocks(mode), Selection(), x.clone().requires_grad_()
        attach_(model, 2, selection)
        for parameter in model.parameters():
            nn.init.uniform_(parameter, low, 1.5, generator=torch.Generator().manual_seed(4))
        selection.choose(torch.tensor([1, 0, 2]))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = model(leaf)
        y.float().square().sum().backward()
        return [y.detach(), *[tensor.grad for tensor in (leaf, *model.parameters()) if tensor.grad is not None]]

    plain, checkpointed = outcome(None), outcome(reentrant)
    assert len(plain) == len(checkpointed) == 5
    for one, other in zip(plain, checkpointed, strict=True):
        assert torch.equal(one, other)


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
    with_sets(ours)
    attach_(twin, 2, Selection())
    twin.load_state_dict(ours.state_dict())
    assert ours.gain is not None
    assert twin.gain is not None
    assert torch.equal(ours.gain, twin.gain)


@every_kind
def test_a_deep_copy_computes_the_same_and_learns_apart(make: Callable[[], tuple[nn.Module, Tensor]]) -> None:
    layer, x = seeded(make)
    ours = quantized(layer)
    with_sets(ours).choose(torch.tensor([0, 1, 2]))
    other = copy.deepcopy(ours)
    before = ours(x)
    assert torch.equal(other(x), before)
    assert other.gain is not None
    with torch.no_grad():
        other.gain.mul_(2)
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
    ours = QuantizedConv2d.from_float(nn.Conv2d(4, 6, 3).half(), MSE(Grid(4)))
    assert ours.bias is not None
    assert ours.bias.dtype == torch.float16
    assert ours.scale.dtype == torch.float32
    assert ours(torch.randn(2, 4, 5, 5).half()).dtype == torch.float16
    assert ours(torch.randn(2, 4, 5, 5)).dtype == torch.float32


def test_quantized_layers_are_found_with_their_names() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(QuantizedLinear(2, 2, 4)), QuantizedConv2d(2, 2, 1, 8))
    assert [name for name, _ in quantized_layers(model)] == ["1.0", "2"]
    assert "bits=8" in repr(model)
