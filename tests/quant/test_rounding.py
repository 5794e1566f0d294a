"""AdaRound: starts at the float weight, ends at the code above or below; formulas and gradients by hand."""

import pytest
import torch
from torch import Tensor

from quantbooth.quant.format import BITS, Grid, dequantize, quantize
from quantbooth.quant.observers import MinMaxObserver, MSEObserver
from quantbooth.quant.rounding import LearnedRounding

SHAPE = (6, 5, 3, 3)


def affine(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    scale, zero = MinMaxObserver(Grid(bits))(weight.flatten(1))
    return scale.view(-1, 1, 1, 1), zero.view(-1, 1, 1, 1)


@pytest.fixture
def weight(generator: torch.Generator) -> Tensor:
    return torch.randn(SHAPE, generator=generator)


@pytest.mark.parametrize("bits", BITS)
def test_it_starts_at_the_float_weight_and_its_codes_are_the_nearest(weight: Tensor, bits: int) -> None:
    scale, zero = affine(weight, bits)
    rounding = LearnedRounding(weight, scale, zero, Grid(bits))
    torch.testing.assert_close(rounding.weight(), weight, rtol=0, atol=float(scale.max()) * 0.51)  # z is rounded
    inside = (rounding.below >= 0) & (rounding.below < Grid(bits).levels)
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(rounding.weight()[inside], weight[inside], rtol=1e-5, atol=1e-5)
    codes, expected = rounding.codes(), quantize(weight, scale, zero, Grid(bits))
    assert codes.dtype == torch.uint8
    assert torch.equal(codes, expected)


def test_what_lies_outside_the_range_stays_at_its_end(weight: Tensor) -> None:
    scale, zero = affine(weight, 4)
    narrow = LearnedRounding(weight, scale / 2, zero, Grid(4))
    assert torch.equal(narrow.codes(), quantize(weight, scale / 2, zero, Grid(4)))
    with torch.no_grad():
        narrow.v.fill_(9.0)
    assert int(narrow.codes().max()) == 15
    torch.testing.assert_close(narrow.weight(), dequantize(narrow.codes(), scale / 2, zero))


@pytest.mark.parametrize("bits", BITS)
def test_far_from_zero_soft_and_hard_agree_and_are_a_code_apart(weight: Tensor, bits: int) -> None:
    scale, zero = MSEObserver(Grid(bits))(weight.flatten(1))
    scale, zero = scale.view(-1, 1, 1, 1), zero.view(-1, 1, 1, 1)
    rounding, found = LearnedRounding(weight, scale, zero, Grid(bits)), {}
    for sign in (-1, 1):
        with torch.no_grad():
            rounding.v.fill_(sign * 5.0)
        found[sign] = rounding.codes()
        torch.testing.assert_close(rounding.weight(), dequantize(found[sign], scale, zero), rtol=1e-6, atol=1e-6)
        assert float(rounding.penalty(2.0).detach()) == 0.0
    apart = found[1].int() - found[-1].int()
    assert set(apart.unique().tolist()) <= {0, 1}
    assert apart.float().mean() > 0.5


@pytest.mark.parametrize("beta", [20.0, 2.0])
def test_weight_and_penalty_have_the_formulas_of_the_paper(weight: Tensor, beta: float) -> None:
    scale, zero = affine(weight, 3)
    rounding = LearnedRounding(weight, scale, zero, Grid(3))
    v, w = rounding.v.detach().double(), weight.double()
    s, z = scale.double(), zero.double()
    h = (1.2 / (1 + torch.exp(-v)) - 0.1).clamp(0, 1)
    soft = s * ((torch.floor(weight / scale).double() + h + z).clamp(0, 7) - z)
    torch.testing.assert_close(rounding.weight().double(), soft, rtol=1e-5, atol=1e-6)
    assert float(rounding.penalty(beta).detach()) == pytest.approx(
        float((1 - (2 * h - 1).abs() ** beta).sum()), rel=1e-4
    )
    assert w.shape == soft.shape


def test_gradients_of_weight_and_penalty_are_those_of_finite_differences(weight: Tensor) -> None:
    """In float64, for numbers that no clamp holds."""
    scale, zero = affine(weight, 4)
    rounding = LearnedRounding(weight, scale, zero, Grid(4)).double()
    direction = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5)).double()
    free = (rounding.v.detach().abs() < 1.5) & (rounding.below > 0) & (rounding.below < 14)
    assert free.float().mean() > 0.3

    def value(v: Tensor) -> Tensor:
        with torch.no_grad():
            rounding.v.copy_(v)
        return (rounding.weight() * direction).sum() + rounding.penalty(3.0)

    start = rounding.v.detach().clone()
    (gradient,) = torch.autograd.grad(value(start), [rounding.v])
    step = torch.where(free, torch.randn(SHAPE, generator=torch.Generator().manual_seed(6)).double(), 0.0)
    h = 1e-6
    difference = (value(start + h * step) - value(start - h * step)).detach() / (2 * h)
    assert float((gradient * step).sum()) == pytest.approx(float(difference), rel=1e-6)


def test_what_a_clamp_holds_learns_nothing(weight: Tensor) -> None:
    """h is clamped where |V| > log 11, a weight where its code lies outside the grid: there the value is constant."""
    scale, zero = affine(weight, 4)
    narrow = LearnedRounding(weight, scale / 2, zero, Grid(4))
    with torch.no_grad():
        narrow.v[::2] = 3.0 * torch.sign(weight[::2])
    outside = (narrow.below < 0) | (narrow.below >= 15)
    held = narrow.v.detach().abs() > 2.5
    (of_weight,) = torch.autograd.grad(narrow.weight().sum(), [narrow.v])
    (of_penalty,) = torch.autograd.grad(narrow.penalty(3.0), [narrow.v])
    assert 0.1 < outside.float().mean() < 0.9
    assert torch.equal(of_weight != 0, ~(outside | held))
    assert torch.equal(of_penalty[held], torch.zeros(int(held.sum())))
    assert (of_penalty[~held] != 0).float().mean() > 0.9
