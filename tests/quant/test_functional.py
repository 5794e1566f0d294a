"""The autograd function against an obvious float64 twin: y = (g * W) x + b with W dequantized in the graph."""

from collections.abc import Callable
from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from quantbooth.quant.functional import Packed, gained_product
from quantbooth.quant.grid import BITS
from quantbooth.quant.packing import pack
from quantbooth.quant.products import Conv2dProduct, LinearProduct, Product

Case = tuple[Product, tuple[int, ...], tuple[int, ...]]

CASES: dict[str, Case] = {
    "vectors": (LinearProduct(), (5, 7), (3, 7)),
    "tokens": (LinearProduct(), (5, 7), (3, 4, 7)),
    "grid of tokens": (LinearProduct(), (5, 7), (3, 2, 4, 7)),
    "pointwise": (Conv2dProduct((1, 1), (0, 0), (1, 1), 1), (6, 4, 1, 1), (3, 4, 5, 5)),
    "padded": (Conv2dProduct((1, 1), (1, 1), (1, 1), 1), (6, 4, 3, 3), (3, 4, 5, 6)),
    "strided": (Conv2dProduct((2, 2), (1, 1), (1, 1), 1), (6, 4, 3, 3), (3, 4, 7, 6)),
    "dilated": (Conv2dProduct((1, 2), (2, 0), (2, 1), 1), (6, 4, 3, 2), (3, 4, 7, 6)),
    "grouped": (Conv2dProduct((1, 1), (1, 1), (1, 1), 2), (6, 2, 3, 3), (3, 4, 5, 5)),
    "depthwise": (Conv2dProduct((2, 1), (1, 1), (1, 1), 4), (4, 1, 3, 3), (3, 4, 5, 5)),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


class Problem:
    """One frozen weight with inputs, and the twin that computes the same plainly."""

    def __init__(self, case: Case, bits: int, seed: int = 0) -> None:
        self.product, self.shape, x_shape = case
        generator = torch.Generator().manual_seed(seed)
        out, n = self.shape[0], prod(self.shape[1:])
        self.bits = bits
        self.q = torch.randint(0, 2**bits, (out, n), dtype=torch.uint8, generator=generator)
        self.codes = pack(self.q, bits)
        self.zero = torch.randint(0, 2**bits, (out,), dtype=torch.uint8, generator=generator)
        self.scale = (torch.rand(out, generator=generator) + 0.5) / 2**bits
        self.bias = torch.randn(out, generator=generator)
        self.x = torch.randn(x_shape, generator=generator)
        self.gain = torch.rand(x_shape[0], out, generator=generator) + 0.5

    def ours(self, x: Tensor, gain: Tensor | None, bias: Tensor | None) -> Tensor:
        packed = Packed(self.bits, self.shape)
        return gained_product(x, gain, bias, self.codes, self.scale, self.zero, packed, self.product)

    def twin(self, x: Tensor, gain: Tensor | None, bias: Tensor | None) -> Tensor:
        """Each sample alone, float64, the gain on the weight."""
        base = (self.q.double() - self.zero.double()[:, None]) * self.scale.double()[:, None]
        outputs = []
        for number, sample in enumerate(x.double()):
            scaled = base if gain is None else base * gain[number].double()[:, None]
            b = None if bias is None else bias.double()
            if isinstance(self.product, Conv2dProduct):
                p = self.product
                y = F.conv2d(sample[None], scaled.view(self.shape), b, p.stride, p.padding, p.dilation, p.groups)[0]
            else:
                y = F.linear(sample, scaled, b)
            outputs.append(y)
        return torch.stack(outputs)


def run(function: Callable[..., Tensor], *inputs: Tensor | None) -> list[Tensor]:
    """Return the value and the gradients of a fixed uneven loss in every input that is there."""
    leaves = [None if tensor is None else tensor.clone().requires_grad_() for tensor in inputs]
    y = function(*leaves)
    ramp = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape)
    (y.double() * ramp).sum().backward()
    grads = [leaf.grad for leaf in leaves if leaf is not None]
    return [y.detach(), *[grad for grad in grads if grad is not None]]


def assert_same(ours: list[Tensor], twins: list[Tensor], rtol: float, atol: float) -> None:
    assert len(ours) == len(twins)
    for mine, theirs in zip(ours, twins, strict=True):
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=rtol, atol=atol)


@every_case
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("biased", [True, False])
def test_equals_the_twin(case: Case, bits: int, biased: bool) -> None:
    problem = Problem(case, bits)
    bias = problem.bias if biased else None
    ours = run(lambda x, g: problem.ours(x, g, bias), problem.x, problem.gain)
    twins = run(lambda x, g: problem.twin(x, g, bias), problem.x, problem.gain)
    assert len(ours) == 3
    assert_same(ours, twins, rtol=1e-5, atol=1e-4)


@every_case
def test_equals_the_twin_without_a_gain(case: Case) -> None:
    problem = Problem(case, 4)
    ours = run(lambda x: problem.ours(x, None, problem.bias), problem.x)
    twins = run(lambda x: problem.twin(x, None, problem.bias), problem.x)
    assert_same(ours, twins, rtol=1e-5, atol=1e-5)


@every_case
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 5e-3), (torch.bfloat16, 4e-2)])
def test_equals_the_twin_in_half_precision(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    problem = Problem(case, 4)
    ours = run(lambda x, g: problem.ours(x, g, problem.bias), problem.x.to(dtype), problem.gain)
    twins = run(lambda x, g: problem.twin(x, g, problem.bias), problem.x.to(dtype), problem.gain)
    assert [tensor.dtype for tensor in ours] == [dtype, dtype, torch.float32]
    for mine, theirs in zip(ours, twins, strict=True):
        assert (mine.double() - theirs.double()).norm() <= tolerance * theirs.double().norm()


@every_case
@pytest.mark.parametrize("smallest", [0.05, 0.5])
def test_gradcheck(case: Case, smallest: float) -> None:
    problem = Problem(case, 3)
    gain = problem.gain.double()
    gain[0, 0] = smallest
    inputs = (problem.x.double().requires_grad_(), gain.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, g: problem.ours(x, g, problem.bias), inputs, fast_mode=True)


@every_case
@pytest.mark.parametrize("near_zero", [0.0, 1e-8, -1e-3, 0.0999, 0.1001, -0.2])
def test_gradients_hold_for_gains_near_zero(case: Case, near_zero: float) -> None:
    problem = Problem(case, 4)
    problem.gain[:, ::2] = near_zero
    bias = problem.bias * 100
    ours = run(lambda x, g: problem.ours(x, g, bias), problem.x, problem.gain)
    twins = run(lambda x, g: problem.twin(x, g, bias), problem.x, problem.gain)
    assert_same(ours, twins, rtol=1e-4, atol=2e-2)


def kept(problem: Problem, x: Tensor, gain: Tensor | None) -> tuple[list[Tensor], Tensor]:
    """Return what autograd keeps, and y."""
    saved: list[Tensor] = []

    def pack_hook(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda tensor: tensor):
        y = problem.ours(x, gain, problem.bias)
    return saved, y


def test_the_output_is_kept_where_division_is_safe_and_u_where_it_is_not() -> None:
    problem = Problem(CASES["padded"], 4)

    def keeps_y(x: Tensor, gain: Tensor) -> bool:
        saved, y = kept(problem, x, gain.requires_grad_())
        activations = [tensor for tensor in saved if tensor.is_floating_point() and tensor.ndim == 4]
        assert len(activations) == 1
        return torch.equal(activations[0], y)

    assert keeps_y(problem.x, torch.full((3, 6), 0.1))
    assert keeps_y(problem.x, torch.full((3, 6), -0.5))
    assert not keeps_y(problem.x, torch.full((3, 6), 0.09))
    assert not keeps_y(problem.x.half(), torch.full((3, 6), 0.5))
    assert not keeps_y(problem.x.bfloat16(), torch.full((3, 6), 0.5))


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nothing_weight_sized_in_float_is_kept_and_x_never(case: Case, dtype: torch.dtype) -> None:
    problem = Problem(case, 4)
    x, gain = problem.x.to(dtype).requires_grad_(), problem.gain.requires_grad_()
    saved, y = kept(problem, x, gain)
    floats = [tensor for tensor in saved if tensor.is_floating_point()]
    activation, per_channel = y.shape, problem.scale.shape
    expected = [activation, gain.shape, per_channel] + [per_channel] * (dtype == torch.float32)
    assert problem.shape not in expected
    assert x.shape not in expected
    assert sorted(tensor.shape for tensor in floats) == sorted(expected)
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in floats)


def test_what_needs_no_gradient_keeps_nothing_for_it() -> None:
    problem = Problem(CASES["padded"], 4)
    frozen, learning = problem.gain.clone(), problem.gain.clone().requires_grad_()
    data, hidden = problem.x.clone(), problem.x.clone().requires_grad_()
    assert kept(problem, data, frozen)[0] == []
    assert {tensor.ndim for tensor in kept(problem, hidden, frozen)[0]} <= {1, 2}
    assert {tensor.ndim for tensor in kept(problem, hidden, None)[0]} <= {1, 2}
    assert all(tensor.dtype != torch.uint8 for tensor in kept(problem, data, learning)[0])
    y = problem.ours(data, learning, problem.bias)
    y.sum().backward()
    twin = problem.gain.clone().requires_grad_()
    problem.twin(data, twin, problem.bias).sum().backward()
    torch.testing.assert_close(learning.grad, twin.grad, rtol=1e-5, atol=1e-4)


@every_case
def test_doubling_one_gain_changes_exactly_that_channel(case: Case) -> None:
    problem = Problem(case, 4)
    changed = problem.gain.clone()
    changed[1, 2] *= 2
    before, after = (problem.ours(problem.x, gain, None) for gain in (problem.gain, changed))
    axis = problem.product.channel
    u = problem.ours(problem.x, None, None).movedim(axis, 1)
    assert (u[1, 2] != 0).any()
    difference = (after - before).movedim(axis, 1)
    torch.testing.assert_close(difference[1, 2], before.movedim(axis, 1)[1, 2])
    difference[1, 2] = 0
    assert (difference == 0).all()


@every_case
def test_gain_one_is_the_base_bit_for_bit(case: Case) -> None:
    problem = Problem(case, 4)
    ones = torch.ones_like(problem.gain)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x = problem.x.to(dtype)
        assert torch.equal(problem.ours(x, ones, problem.bias), problem.ours(x, None, problem.bias))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", BITS)
def test_large_activations_stay_finite_in_half_precision(dtype: torch.dtype, bits: int) -> None:
    """Bare integer sums overflow float16: 2560 products of 8-bit codes with activations of std 20 do."""
    problem = Problem((LinearProduct(), (16, 2560), (2, 8, 2560)), bits)
    problem.scale *= 0.2
    problem.zero[:] = 0
    x = (20 * problem.x).to(dtype)
    ours = run(lambda x, g: problem.ours(x, g, problem.bias), x, problem.gain)
    assert all(tensor.isfinite().all() for tensor in ours)
    if bits == 8:
        assert not (x @ problem.q.to(dtype).T).isfinite().all() or dtype == torch.bfloat16


@every_case
def test_autocast_runs_in_its_dtype_and_casts_back(case: Case) -> None:
    problem = Problem(case, 4)

    def under_autocast(x: Tensor, gain: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return problem.ours(x, gain, problem.bias)

    ours = run(under_autocast, problem.x, problem.gain)
    plain = run(lambda x, g: problem.ours(x.bfloat16(), g, problem.bias), problem.x, problem.gain)
    assert [tensor.dtype for tensor in ours] == [torch.bfloat16, torch.float32, torch.float32]
    for mine, theirs in zip(ours, plain, strict=True):
        assert torch.equal(mine, theirs)


def test_a_backward_inside_autocast_sums_in_float32_all_the_same() -> None:
    problem = Problem(CASES["tokens"], 4)

    def gradients(inside: bool) -> Any:
        x, gain = problem.x.clone().requires_grad_(), problem.gain.clone().requires_grad_()
        y = problem.ours(x, gain, problem.bias)
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            y.backward(torch.ones_like(y))
        return x.grad, gain.grad

    for outside, inside in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(outside, inside)


@every_case
def test_gradients_do_not_depend_on_the_layout_of_the_gradient_that_comes_in(case: Case) -> None:
    problem = Problem(case, 4)
    x, gain = problem.x.clone().requires_grad_(), problem.gain.clone().requires_grad_()
    y = problem.ours(x, gain, problem.bias)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    turned = dy.transpose(1, -1).contiguous().transpose(1, -1)
    plain = torch.autograd.grad(y, (x, gain), dy, retain_graph=True)
    for one, other in zip(plain, torch.autograd.grad(y, (x, gain), turned), strict=True):
        assert torch.equal(one, other)


def test_refuses_to_train_gains_of_half_precision() -> None:
    problem = Problem(CASES["tokens"], 4)
    with pytest.raises(RuntimeError, match=r"gains must be float32 to be trained, got torch\.bfloat16"):
        problem.ours(problem.x.bfloat16(), problem.gain.bfloat16().requires_grad_(), None)
    assert problem.ours(problem.x.bfloat16(), problem.gain.bfloat16(), None).dtype == torch.bfloat16


def test_second_derivatives_are_refused_not_wrong() -> None:
    problem = Problem(CASES["tokens"], 4)
    x = problem.x.clone().requires_grad_()
    (dx,) = torch.autograd.grad(problem.ours(x, problem.gain, None).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()
