"""Shares of all sets: one-hot ones equal the index, others a slow twin, and gradients are finite differences."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from quantbooth.quant import adapters, scale_sets
from quantbooth.quant.format import Grid
from quantbooth.quant.layers import QuantizedConv2d, QuantizedLinear
from quantbooth.quant.low_rank import LEARNED, adapt_, delta, form_of
from quantbooth.quant.observers import MinMaxObserver
from quantbooth.quant.scale_sets import Parts
from quantbooth.quant.selection import INITIAL_VALUES, SetSelection, register_sets_, selected_rows

SHARES = torch.tensor([[0.3, 0.0, 1.2], [0.0, 0.0, 0.0], [1.0, 1.0, -0.5]])
SETS = 3


class Network(nn.Module):
    """A convolution, a normalization and a linear layer, quantized, with random sets of everything."""

    def __init__(self, adapted: bool) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            grid = MinMaxObserver(Grid(4))
            self.conv = QuantizedConv2d.from_float(nn.Conv2d(4, 6, 3, padding=1), grid)
            self.norm = nn.GroupNorm(2, 6).requires_grad_(False)
            self.linear = QuantizedLinear.from_float(nn.Linear(6, 5), grid)
        self.selection, draw = SetSelection(), torch.Generator().manual_seed(1)
        if adapted:
            adapters.attach_(self, ["conv", "linear"], SETS, 2, 0.7, self.selection, draw)
        else:
            scale_sets.attach_(self, SETS, self.selection, Parts(True, True, True))
        with torch.no_grad():
            for numbers in self.learning:
                numbers.uniform_(0.5, 1.5, generator=draw)

    @property
    def learning(self) -> list[nn.Parameter]:
        return [numbers for numbers in self.parameters() if numbers.requires_grad]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(self.norm(self.conv(x)).flatten(2).transpose(1, 2))
        return y


def outcome(network: Network, choice: Tensor, autocast: bool = False) -> list[Tensor]:
    """The value of a network, and the gradients of an uneven loss in x and in all sets."""
    x = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(2)).requires_grad_()
    network.selection.choose(choice)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = network(x)
    loss = (y.float() * torch.linspace(-1, 2, y.numel()).view(y.shape)).sum()
    return [y.detach(), *torch.autograd.grad(loss, [x, *network.learning])]


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_one_hot_shares_are_the_index(adapted: bool, autocast: bool) -> None:
    index = torch.tensor([2, 0, 3])
    shares = torch.nn.functional.one_hot(index, SETS + 1)[:, 1:].float()
    network = Network(adapted)
    for one, other in zip(*(outcome(network, choice, autocast) for choice in (index, shares)), strict=True):
        scale = float(one.abs().max())
        torch.testing.assert_close(one, other, rtol=1e-6, atol=scale * (4e-3 if autocast else 1e-6))


def test_rows_without_any_share_are_the_base_bit_for_bit() -> None:
    x = torch.randn(3, 4, 5, 5)
    for adapted in (False, True):
        network = Network(adapted)
        network.selection.choose(torch.zeros(3, dtype=torch.int64))
        base = network(x)
        network.selection.choose(SHARES)
        assert [torch.equal(*pair) for pair in zip(network(x), base, strict=True)] == [False, True, False]


@pytest.mark.parametrize("name", INITIAL_VALUES)
def test_a_row_is_the_start_plus_the_shares_of_all_steps_and_its_gradient_finite_differences(name: str) -> None:
    holder, selection = nn.Module(), SetSelection()
    register_sets_(holder, {name: 4}, SETS, selection, torch.device("cpu"))
    values = torch.randn(SETS, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    selection.choose(SHARES)

    def rows(values: Tensor) -> Tensor:
        setattr(holder, name, None)
        delattr(holder, name)
        setattr(holder, name, values)
        found = selected_rows(holder, name, len(SHARES))
        assert found is not None
        return found

    start = INITIAL_VALUES[name]
    expected = torch.stack([start + sum(s * (v - start) for s, v in zip(row, values, strict=True)) for row in SHARES])
    torch.testing.assert_close(rows(values), expected, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(rows, [values.requires_grad_()])


@pytest.mark.parametrize("make", [lambda: nn.Linear(7, 5), lambda: nn.Conv2d(7, 5, 3, padding=1)])
def test_an_adapted_layer_adds_the_shares_of_all_adapters(make: Callable[[], nn.Module]) -> None:
    draw, selection = torch.Generator().manual_seed(0), SetSelection()
    layer = make().double().requires_grad_(False)
    x = torch.randn(3, 7, *(() if isinstance(layer, nn.Linear) else (4, 4)), dtype=torch.float64, generator=draw)
    plain = layer(x)
    shapes = form_of(layer).shapes(2)
    down, up = (torch.randn(SETS, *shape, dtype=torch.float64, generator=draw) for shape in shapes)
    adapt_(layer, LEARNED, down, up, 0.7, selection)
    selection.choose(SHARES)
    found, expected = layer(x), plain.clone()
    for row, shares in enumerate(SHARES.double()):
        for k, share in enumerate(shares, start=1):
            change = delta(layer, LEARNED, k)
            assert change is not None
            one = x[row : row + 1]
            more = one @ change.T if change.ndim == 2 else nn.functional.conv2d(one, change, padding=1)
            expected[row : row + 1] += share * more
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)

    def value(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(layer, {"lora_A": down, "lora_B": up}, (x,))
        return y

    inputs = [tensor.detach().clone().requires_grad_() for tensor in (x, down, up)]
    assert torch.autograd.gradcheck(value, inputs, fast_mode=True)


def test_an_overflow_of_a_set_without_a_share_reaches_no_other_sample() -> None:
    layer, selection = nn.Linear(2, 2, bias=False), SetSelection()
    down = torch.tensor([[[1.0, 1.0]], [[float("inf"), 0.0]]])
    adapt_(layer, LEARNED, down, torch.ones(2, 2, 1), 1.0, selection)
    selection.choose(torch.tensor([[0.5, 0.0]]))
    assert layer(torch.ones(1, 2)).isfinite().all()


@pytest.mark.parametrize("other", [SHARES.flip(0), torch.tensor([1, 0, 2])])
def test_other_shares_or_an_index_before_the_backward_raise_with_checkpointing(other: Tensor) -> None:
    for again, raises in ((other, True), (SHARES, False)):
        network = Network(adapted=False)
        network.selection.choose(SHARES)
        x = torch.ones(3, 4, 5, 5, requires_grad=True)
        loss = checkpoint(network, x, use_reentrant=False).square().sum()
        network.selection.choose(again)
        if raises:
            with pytest.raises(RuntimeError, match="chosen anew"):
                loss.backward()
        else:
            loss.backward()
