"""Gains around layers of another package, here one that dequantizes in its forward as they all do."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantbooth.quant import scale_sets
from quantbooth.quant.merging import merged_state
from quantbooth.quant.scale_sets import Parts
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.stored import stored_layers
from quantbooth.quant.surgery import quantize_
from quantbooth.runtime.errors import UserError

ALL = Parts(inputs=True, biases=True)


class CodedLinear(nn.Linear):
    scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype), self.bias)


class CodedConv2d(nn.Conv2d):
    scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight.to(x.dtype) * self.scale.to(x.dtype), self.bias)


class Rounding(CodedLinear):
    """Its products are of whole numbers, which have no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(x.round())


def code_(layer: nn.Module) -> None:
    """Replace a weight by whole numbers."""
    assert isinstance(layer, CodedLinear | CodedConv2d)
    weight = layer.weight.detach()
    layer.scale = weight.abs().amax() / 7
    layer.weight = nn.Parameter((weight / layer.scale).round().to(torch.int8), requires_grad=False)


@pytest.fixture
def model() -> nn.Sequential:
    """Layers with and without bias, one of them a float one and one a normalization, on [b, 4, 6, 6]."""
    torch.manual_seed(0)
    found = nn.Sequential(
        CodedConv2d(4, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), CodedConv2d(8, 6, 1, bias=False), nn.Flatten(2)
    )
    found.extend([CodedLinear(36, 10), nn.Linear(10, 5)]).double()
    for layer in (found[0], found[3], found[5]):
        code_(layer)
    return found.requires_grad_(False)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def spread_(model: nn.Module) -> None:
    """Move every gain and shift away from its start."""
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for each in scale_sets.parameters(model).values():
            for numbers in each:
                numbers.add_(0.3 * torch.randn(numbers.shape, generator=draw))


def chosen(model: nn.Module, index: list[int], parts: Parts = ALL) -> SetSelection:
    selection = scale_sets.attach_(model, 2, None, parts)
    selection.choose(torch.tensor(index))
    return selection


def test_layers_with_codes_are_found_and_float_and_our_own_are_not(model: nn.Sequential) -> None:
    assert [name for name, _ in stored_layers(model)] == ["0", "3", "5"]
    own = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    quantize_(own, 4, include=["0"])
    assert not list(stored_layers(own))


PRECISIONS = [
    (torch.float64, nullcontext),
    (torch.float32, nullcontext),
    (torch.bfloat16, nullcontext),
    (torch.float32, lambda: torch.autocast("cpu", torch.bfloat16)),
]


@pytest.mark.parametrize(("dtype", "within"), PRECISIONS)
def test_gains_of_1_give_the_stored_model_bit_for_bit(
    model: nn.Sequential, x: Tensor, dtype: torch.dtype, within: Callable[[], AbstractContextManager[None]]
) -> None:
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    x = x.to(dtype)
    with within():
        alone = model(x)
        chosen(model, [0, 1, 2], Parts(inputs=True, biases=True, norms=True))
        with_sets = model(x)
    assert with_sets.dtype == alone.dtype
    assert torch.equal(with_sets, alone)


def twin(model: nn.Sequential, x: Tensor, sets: dict[str, Tensor]) -> Tensor:
    """Compute set 1 with float weights: W = g_out W_0 g_in."""
    for name, layer in model.named_children():
        if not isinstance(layer, CodedLinear | CodedConv2d):
            x = layer(x)
            continue
        weight = layer.weight.double() * layer.scale
        along = (-1, *[1] * (weight.ndim - 2))
        weight = sets[f"{name}.gain_out"][0].view(-1, *[1] * (weight.ndim - 1)) * weight
        weight = weight * sets[f"{name}.gain_in"][0].view(along)
        bias = None if layer.bias is None else layer.bias + sets[f"{name}.shift"][0]
        x = layer._conv_forward(x, weight, bias) if isinstance(layer, CodedConv2d) else F.linear(x, weight, bias)
    return x


def test_gradients_are_those_of_a_float_twin(model: nn.Sequential, x: Tensor) -> None:
    chosen(model, [1, 1, 1])
    spread_(model)
    sets = {name: rows.double().requires_grad_() for name, rows in scale_sets.read(model).items()}
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = model(ours), twin(model, theirs, sets)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    y.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-9)
    for name, numbers in model.named_parameters():
        if numbers.requires_grad:
            gradient = sets[name].grad
            assert gradient is not None
            torch.testing.assert_close(
                numbers.grad, gradient.float(), rtol=1e-5, atol=1e-5 * float(gradient.abs().max())
            )


def test_a_batch_mixes_sets_and_the_base(model: nn.Sequential, x: Tensor) -> None:
    base = model(x)
    selection = chosen(model, [1, 0, 2])
    spread_(model)
    mixed = model(x)
    for row, index in enumerate([1, 0, 2]):
        selection.choose(torch.tensor([index]))
        torch.testing.assert_close(model(x[row : row + 1])[0], mixed[row], rtol=1e-12, atol=1e-12)
    assert torch.equal(mixed[1], base[1])
    assert not torch.allclose(mixed[0], base[0])


def test_read_and_load_are_inverse_and_detach_gives_the_stored_model_again(model: nn.Sequential, x: Tensor) -> None:
    names, other = list(model.state_dict()), deepcopy(model)
    alone = model(x)
    chosen(model, [1, 2, 1])
    spread_(model)
    sets, tuned = scale_sets.read(model), model(x)
    assert sets["5.gain_in"].shape == (2, 36)
    assert "3.shift" not in sets
    assert scale_sets.parts_of(other, sets) == ALL
    chosen(other, [1, 2, 1])
    scale_sets.load_(other, sets)
    assert torch.equal(other(x), tuned)
    scale_sets.detach_(model)
    assert list(model.state_dict()) == names
    assert torch.equal(model(x), alone)


def test_a_copy_of_a_model_with_sets_computes_with_its_own(model: nn.Sequential, x: Tensor) -> None:
    chosen(model, [1, 2, 1])
    copy, before = deepcopy(model), model(x)
    spread_(copy)
    assert torch.equal(model(x), before)
    assert not torch.equal(copy(x), before)


def test_groups_of_inputs_are_refused(model: nn.Sequential) -> None:
    with pytest.raises(UserError, match=r"tuner\.group_size=4 .*as_stored"):
        scale_sets.attach_(model, 1, None, Parts(group_size=4))


def test_a_layer_without_a_gradient_of_its_input_is_refused_in_training_alone() -> None:
    model = nn.Sequential(CodedLinear(4, 4), Rounding(4, 4))
    for layer in model:
        code_(layer)
    chosen(model, [1], Parts())
    with torch.no_grad():
        model(torch.ones(1, 4))
    with pytest.raises(UserError, match="Rounding"):
        model(torch.ones(1, 4))


def test_codes_of_another_package_are_not_merged(model: nn.Sequential) -> None:
    chosen(model, [1])
    with pytest.raises(UserError, match=r"'0'.*CodedConv2d"):
        merged_state(model, 1)
