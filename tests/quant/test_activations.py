"""Fake quantization of activations: formula and gradients against float64 twins, saved tensors, meta loading."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from quantbooth.quant.activations import ActivationQuantizer, Probabilities, on_grid

Kept = Callable[..., tuple[list[Tensor], Tensor]]


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return 2 * torch.randn(3, 6, 5, generator=generator) + 0.7


def fitted(low: float, high: float, bits: int = 4) -> ActivationQuantizer:
    made = ActivationQuantizer(bits)
    made.fit_(torch.tensor([float(low)]), torch.tensor([float(high)]))
    return made


def through(v: Tensor, made: Tensor) -> Tensor:
    """The value of `made` with the gradient of v."""
    return v + (made - v).detach()


def twin(x: Tensor, s: Tensor, z: Tensor, levels: int) -> Tensor:
    """The formula as plain operations, float64: autograd's own gradient of clamp, round taken for the identity."""
    v = (x / s).clamp(-float(z), float(levels - z))
    return s * through(v, v.round())


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize(("low", "high"), [(-2.0, 3.0), (0.0, 3.0), (-3.0, 0.0), (1.0, 2.0)])
def test_the_value_is_the_formula_and_no_further_than_half_a_step_inside(
    x: Tensor, bits: int, low: float, high: float
) -> None:
    made = fitted(low, high, bits)
    s, z = made.scale.double(), made.zero
    codes = ((x.double() / s).round() + z).clamp(0, 2**bits - 1)
    torch.testing.assert_close(made(x).double(), s * (codes - z), rtol=1e-6, atol=1e-6)
    inside = (x > min(low, 0)) & (x < max(high, 0))
    assert ((made(x) - x).abs()[inside] <= 1.001 * float(s)).all()
    assert float(made(torch.zeros(1, 1))) == 0


def test_a_constant_zero_stays_zero() -> None:
    assert torch.equal(fitted(0, 0)(torch.zeros(2, 3)), torch.zeros(2, 3))


@pytest.mark.parametrize("z", [0, 6, 15])
def test_gradients_are_those_of_lsq(x: Tensor, z: int) -> None:
    """Eq. 3 and 5, s's gradient scaled by 1 / sqrt(N Q_P)."""
    levels, zero = 15, torch.tensor(z)
    ours, theirs = (x.double().requires_grad_() for _ in range(2))
    s, wide = torch.tensor(0.3, requires_grad=True), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    ramp = torch.linspace(-1, 2, x.numel(), dtype=torch.float64).view(x.shape)
    (on_grid(ours, s, zero, levels) * ramp).sum().backward()
    (twin(theirs, wide, zero, levels) * ramp).sum().backward()
    assert ours.grad is not None and theirs.grad is not None and s.grad is not None and wide.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert 0 < int((ours.grad == 0).sum()) < x.numel()
    g = (30 * max(levels - z, 1)) ** -0.5
    torch.testing.assert_close(s.grad, (g * wide.grad).float(), rtol=1e-5, atol=1e-6)


def test_beyond_the_range_the_scales_gradient_is_a_finite_difference() -> None:
    x, z, s = torch.tensor([[-9.0, 9.0, 8.0, -7.0]]), torch.tensor(5), torch.tensor(0.25, requires_grad=True)
    weights, small = torch.tensor([[1.0, 2.0, -0.5, 3.0]]), 1e-3
    (on_grid(x, s, z, 15) * weights).sum().backward()
    with torch.no_grad():
        above, below = ((on_grid(x, s + way * small, z, 15) * weights).sum() for way in (1, -1))
    assert s.grad is not None
    assert float(s.grad) * (4 * 10) ** 0.5 == pytest.approx(float(above - below) / (2 * small), rel=1e-3)


def test_parts_are_quantized_each_by_itself(x: Tensor) -> None:
    joint, parts = ActivationQuantizer(4, (2, 4), channel=1), [fitted(-1, 2), fitted(-0.5, 4)]
    joint.fit_(torch.tensor([-1.0, -0.5]), torch.tensor([2.0, 4.0]))
    apart = [made(part) for made, part in zip(parts, x.split((2, 4), dim=1), strict=True)]
    assert torch.equal(joint(x), torch.cat(apart, dim=1))


def test_autograd_keeps_one_byte_of_x_and_nothing_where_x_needs_no_gradient(x: Tensor, kept: Kept) -> None:
    made = fitted(-2, 3)
    saved, _ = kept(made, x.clone().requires_grad_())
    assert [(tensor.dtype, tensor.shape) for tensor in saved] == [(torch.bool, x.shape)]
    assert kept(made, x)[0] == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_stays_and_codes_are_found_in_full_precision(x: Tensor, dtype: torch.dtype) -> None:
    made, given = fitted(-2, 3, bits=16), x.to(dtype).requires_grad_()
    y = made(given)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), made(given.double()), rtol=1e-3 if dtype is torch.float16 else 1e-2, atol=0)
    y.sum().backward()
    assert given.grad is not None and given.grad.dtype == dtype


def test_a_quantizer_comes_back_on_the_meta_device(x: Tensor) -> None:
    made, other = fitted(-2, 3), ActivationQuantizer(4, device="meta")
    other.load_state_dict(made.state_dict(), strict=True, assign=True)
    assert set(made.state_dict()) == {"scale", "zero"}
    kinds = {name: tensor.dtype for name, tensor in ActivationQuantizer(4).state_dict().items()}
    assert kinds == {"scale": torch.float32, "zero": torch.int32}
    assert torch.equal(other(x), made(x))


@pytest.mark.parametrize("bits", [2, 8, 16])
def test_probabilities_go_to_the_nearest_multiple_and_gradients_straight_through(x: Tensor, bits: int) -> None:
    levels, p = 2**bits - 1, x.softmax(-1).requires_grad_()
    y = Probabilities(bits)(p)
    torch.testing.assert_close(y.double(), (p.double() * levels).round() / levels, rtol=0, atol=1e-7)
    y.sum().backward()
    assert p.grad is not None and torch.equal(p.grad, torch.ones_like(p))
    assert not Probabilities(bits).state_dict()
