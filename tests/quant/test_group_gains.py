"""Gains by group of inputs against a float64 twin and finite differences, on every kind of product."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantbooth.quant import ops
from quantbooth.quant.group_gains import grouped_product, groups_of, require_groups
from quantbooth.quant.layers import QuantizedConv2d, QuantizedLinear
from quantbooth.quant.ops import Conv2dProduct
from quantbooth.quant.packed_weight import Packed
from quantbooth.quant.scale_sets import Parts, attach_, load_, parameters, read, scaled
from quantbooth.quant.selection import SetSelection
from quantbooth.quant.surgery import quantize_
from quantbooth.runtime.errors import UserError

Run = Callable[..., list[Tensor]]
MakeProblem = Callable[..., Any]
GROUPED = ["vectors", "tokens", "pointwise", "padded", "strided", "dilated", "split tokens", "split in three"]


class Grouped:
    """A problem of conftest whose inputs are groups of `size`, with gains of its own of each, and its twin."""

    def __init__(self, problem: Any, size: int) -> None:
        self.problem, self.size = problem, size
        self.groups = problem.shape[1] // size
        draw = torch.Generator().manual_seed(5)
        self.gains = torch.rand(len(problem.x), self.groups * problem.shape[0], generator=draw) + 0.5

    def ours(self, x: Tensor, g_in: Tensor | None, g: Tensor, b: Tensor | None) -> Tensor:
        p = self.problem
        packed = Packed(p.bits, p.shape, p.split)
        return grouped_product(x, g_in, g, b, p.codes, p.scale, p.zero, packed, p.product)

    def twin(self, x: Tensor, g_in: Tensor | None, g: Tensor, b: Tensor | None) -> Tensor:
        """Each sample alone: w[o, i] = g[o, i // size] (q - z)[o, i] s0[o, i] g_in[i] in float64."""
        p, outputs = self.problem, []
        base = (p.q.view(p.shape).double() - p.of_every_input(p.zero)) * p.of_every_input(p.scale)
        for i, sample in enumerate(x.double()):
            of_input = torch.stack([g[i].double().view(self.groups, -1)[j // self.size] for j in range(p.shape[1])], 1)
            weight = base * of_input.view(*p.shape[:2], *[1] * (len(p.shape) - 2))
            if g_in is not None:
                weight = weight * p.inputs_of_rows(g_in[i].double())
            bias = None if b is None else b[i % len(b)].double()
            if isinstance(p.product, Conv2dProduct):
                c = p.product
                outputs.append(F.conv2d(sample[None], weight, bias, c.stride, c.padding, c.dilation)[0])
            else:
                outputs.append(F.linear(sample, weight, bias))
        return torch.stack(outputs)


@pytest.fixture(params=GROUPED)
def grouped(request: pytest.FixtureRequest, problem_of: MakeProblem) -> Grouped:
    problem = problem_of(request.param)
    return Grouped(problem, 2 if problem.shape[1] % 2 == 0 else 1)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("piece", [ops.PIECE, 9])
def test_equals_the_twin(
    grouped: Grouped, run: Run, dtype: torch.dtype, most: float, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The value, and the gradients in x, the gains of inputs, those of groups and the bias; W whole or in pieces."""
    monkeypatch.setattr(ops, "PIECE", piece)
    p = grouped.problem
    numbers = [one.to(torch.promote_types(dtype, torch.float32)) for one in (p.gain_in, grouped.gains, p.biases)]
    ours, twins = (run(each, p.x.to(dtype), *numbers) for each in (grouped.ours, grouped.twin))
    assert len(ours) == 5
    for mine, exact in zip(ours, twins, strict=True):
        assert float((mine.double() - exact.double()).norm()) <= most * float(exact.double().norm())


def test_gradients_are_finite_differences(grouped: Grouped) -> None:
    p = grouped.problem
    given = [one.double().requires_grad_() for one in (p.x, p.gain_in, grouped.gains, p.biases)]
    assert torch.autograd.gradcheck(grouped.ours, given, fast_mode=True)


def test_one_bias_for_all_samples_and_frozen_gains(grouped: Grouped, run: Run) -> None:
    p = grouped.problem
    ours, twins = (
        run(lambda x, f=each: f(x, None, grouped.gains, p.bias), p.x) for each in (grouped.ours, grouped.twin)
    )
    assert len(ours) == 2
    for mine, exact in zip(ours, twins, strict=True):
        torch.testing.assert_close(mine.double(), exact.double(), rtol=1e-5, atol=1e-4)


def network() -> nn.Sequential:
    made = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 6, 3, groups=3), nn.Flatten(), nn.Linear(6, 5))
    quantize_(made.requires_grad_(False), 4)
    return made


def test_sets_of_groups_are_named_counted_read_loaded_and_scaled() -> None:
    model = network()
    attach_(model, 2, SetSelection(), Parts(group_size=2))
    shapes = {name: tuple(rows.shape) for name, rows in read(model).items()}
    assert shapes == {"0.gain_groups": (2, 2 * 6), "1.gain_out": (2, 6), "3.gain_groups": (2, 3 * 5)}
    learned = [one for several in parameters(model).values() for one in several]
    for one in learned:
        one.data.uniform_(0.5, 1.5)
    values, other = read(model), network()
    attach_(other, 2, SetSelection(), Parts(group_size=2))
    load_(other, values)
    assert all(torch.equal(rows, values[name]) for name, rows in read(other).items())
    half = scaled(values, torch.tensor([0.5, 0.0]))["0.gain_groups"]
    torch.testing.assert_close(half[0], (1 + values["0.gain_groups"][0]) / 2)
    assert half[1].eq(1).all()
    wrong = network()
    attach_(wrong, 2, SetSelection(), Parts(group_size=1))
    with pytest.raises(UserError, match=r"'0.gain_groups' must have shape \(2, 24\), got \(2, 12\)"):
        load_(wrong, values)


def test_each_sample_has_the_gains_of_its_set_and_set_0_is_the_base() -> None:
    model = network()
    x = torch.randn(3, 4, 5, 5)
    base = model(x)
    selection = attach_(model, 2, SetSelection(), Parts(group_size=2))
    for one in (one for several in parameters(model).values() for one in several):
        one.data.uniform_(0.5, 1.5)
    selection.choose(torch.tensor([2, 0, 1]))
    mixed = model(x)
    torch.testing.assert_close(mixed[1], base[1], rtol=1e-5, atol=1e-6)
    for row, chosen in ((0, 2), (2, 1)):
        selection.choose(torch.full((3,), chosen))
        torch.testing.assert_close(mixed[row], model(x)[row], rtol=1e-5, atol=1e-6)
        assert float((mixed[row] - base[row]).detach().abs().max()) > 1e-3


def test_layers_that_a_size_does_not_divide_keep_one_group_and_are_named() -> None:
    model = nn.ModuleDict({"a": nn.Linear(6, 5), "b": nn.Conv2d(4, 6, 3), "c": nn.Conv2d(8, 6, 3, groups=2)})
    layers = list(model.named_children())
    assert [groups_of(layer, 2) for _, layer in layers] == [3, 2, 1]
    assert [groups_of(layer, None) for _, layer in layers] == [1, 1, 1]
    assert require_groups(layers, 3) == ["b", "c"]
    assert require_groups(layers, 4 - 2) == ["c"]
    for size in (4, 6, 64):
        with pytest.raises(UserError, match=f"^tuner.group_size must divide the inputs .*, got {size}; choose"):
            require_groups(layers, size)
    quantize_(model, 4)
    ours = [(name, layer) for name, layer in model.named_children()]
    assert all(isinstance(layer, QuantizedLinear | QuantizedConv2d) for _, layer in ours)
    assert [groups_of(layer, 2) for _, layer in ours] == [3, 2, 1]
    with pytest.raises(UserError, match="^tuner.group_size must divide"):
        attach_(model, 1, SetSelection(), Parts(group_size=64))
