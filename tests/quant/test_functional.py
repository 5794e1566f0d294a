"""The autograd function against a float64 twin whose weights are g_out * (q - z) * s0 * g_in, sample by sample."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from quantbooth.quant.format import BITS
from quantbooth.quant.ops import Conv2dProduct, LinearProduct

Case = Any
Run = Callable[..., list[Tensor]]
Kept = Callable[..., tuple[list[Tensor], Tensor]]
MakeProblem = Callable[..., Any]
SIDES = pytest.mark.parametrize("side", ["gain_in", "gain_out"])


def assert_same(ours: list[Tensor], twins: list[Tensor], rtol: float, atol: float) -> None:
    assert len(ours) == len(twins)
    for mine, theirs in zip(ours, twins, strict=True):
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=rtol, atol=atol)


def everything(problem: Any) -> tuple[Tensor, ...]:
    return problem.x, problem.gain_in, problem.gain_out, problem.biases


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("biased", [True, False])
def test_equals_the_twin(problem_of: MakeProblem, run: Run, case: Case, bits: int, biased: bool) -> None:
    problem = problem_of(case, bits)
    bias = problem.bias if biased else None
    ours = run(lambda x, g: problem.ours(x, None, g, bias), problem.x, problem.gain_out)
    twins = run(lambda x, g: problem.twin(x, None, g, bias), problem.x, problem.gain_out)
    assert len(ours) == 3
    assert_same(ours, twins, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("learning", ["in", "in out", "in bias", "out bias", "bias", "in out bias"])
def test_equals_the_twin_whatever_learns(problem_of: MakeProblem, run: Run, case: Case, learning: str) -> None:
    problem = problem_of(case)
    named = {"in": problem.gain_in, "out": problem.gain_out, "bias": problem.biases}
    given = [problem.x, *(tensor if name in learning.split() else None for name, tensor in named.items())]
    ours, twins = run(problem.ours, *given), run(problem.twin, *given)
    assert len(ours) == 2 + len(learning.split())
    assert_same(ours, twins, rtol=1e-5, atol=1e-4)


def test_equals_the_twin_without_a_gain(problem_of: MakeProblem, run: Run, case: Case) -> None:
    problem = problem_of(case)
    ours = run(lambda x: problem.ours(x, None, None, problem.bias), problem.x)
    twins = run(lambda x: problem.twin(x, None, None, problem.bias), problem.x)
    assert_same(ours, twins, rtol=1e-5, atol=1e-5)


def test_pytest_checks_shapes_so_one_gain_for_a_batch_of_several_is_refused(problem_of: MakeProblem) -> None:
    problem = problem_of("tokens")
    with pytest.raises(TypeCheckError, match="typechecking parameter 'gain_out'"):  # it would broadcast
        problem.ours(problem.x, None, problem.gain_out[:1], problem.bias)


TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""The error of a value or a gradient relative to it, both as the norms of all its numbers."""


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_equals_the_twin_at_every_width_and_precision(
    problem_of: MakeProblem, run: Run, case: Case, bits: int, dtype: torch.dtype
) -> None:
    """The value, dL/dx, and the gradients of the gains of inputs, of outputs, and of the bias."""
    problem = problem_of(case, bits)
    x, *numbers = everything(problem)
    if dtype == torch.float64:
        numbers = [tensor.double() for tensor in numbers]
    ours, twins = run(problem.ours, x.to(dtype), *numbers), run(problem.twin, x.to(dtype), *numbers)
    assert [tensor.dtype for tensor in ours] == [dtype, dtype, *[numbers[0].dtype] * 3]
    for mine, theirs in zip(ours, twins, strict=True):
        assert (mine.double() - theirs.double()).norm() <= TOLERANCES[dtype] * theirs.double().norm()


@pytest.mark.parametrize("smallest", [0.05, 0.5])
def test_gradcheck(problem_of: MakeProblem, case: Case, smallest: float) -> None:
    problem = problem_of(case, 3)
    inputs = tuple(tensor.double() for tensor in everything(problem))
    inputs[1][0, 0] = inputs[2][0, 0] = smallest
    leaves = tuple(tensor.requires_grad_() for tensor in inputs)
    assert torch.autograd.gradcheck(problem.ours, leaves, fast_mode=True)


@pytest.mark.parametrize("near_zero", [0.0, 1e-8, -1e-3, 0.0999, 0.1001, -0.2])
def test_gradients_hold_for_gains_near_zero(problem_of: MakeProblem, run: Run, case: Case, near_zero: float) -> None:
    problem = problem_of(case)
    problem.gain_out[:, ::2] = problem.gain_in[:, ::3] = near_zero
    problem.biases *= 100
    ours, twins = run(problem.ours, *everything(problem)), run(problem.twin, *everything(problem))
    assert_same(ours, twins, rtol=1e-4, atol=2e-2)


def test_the_output_is_kept_where_division_is_safe_and_u_where_it_is_not(problem_of: MakeProblem, kept: Kept) -> None:
    problem = problem_of("padded")

    def keeps_y(x: Tensor, gain: Tensor) -> bool:
        saved, y = kept(problem.ours, x, None, gain.requires_grad_(), problem.bias)
        activations = [tensor for tensor in saved if tensor.is_floating_point() and tensor.ndim == 4]
        assert len(activations) == 1
        return torch.equal(activations[0], y)

    assert keeps_y(problem.x, torch.full((3, 6), 0.1))
    assert keeps_y(problem.x, torch.full((3, 6), -0.5))
    assert not keeps_y(problem.x, torch.full((3, 6), 0.09))
    assert not keeps_y(problem.x.half(), torch.full((3, 6), 0.5))
    assert not keeps_y(problem.x.bfloat16(), torch.full((3, 6), 0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nothing_weight_sized_in_float_is_kept_and_x_never(
    problem_of: MakeProblem, kept: Kept, case: Case, dtype: torch.dtype
) -> None:
    """Where gains of the input do not learn."""
    problem = problem_of(case)
    x, gain = problem.x.to(dtype).requires_grad_(), problem.gain_out.requires_grad_()
    saved, y = kept(problem.ours, x, None, gain, problem.bias)
    floats = [tensor for tensor in saved if tensor.is_floating_point()]
    per_channel = [problem.scale.shape] + [problem.bias.shape] * (dtype == torch.float32)
    expected = [y.shape, gain.shape, *per_channel]
    assert problem.shape not in expected
    assert x.shape not in expected
    assert sorted(tensor.shape for tensor in floats) == sorted(expected)
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in floats)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_gains_of_the_input_keep_x_itself_and_nothing_else_of_its_size(
    problem_of: MakeProblem, kept: Kept, case: Case, dtype: torch.dtype
) -> None:
    """Not g_in * x, and nothing of the weight's size in float either."""
    problem = problem_of(case)
    x, g_in = problem.x.to(dtype).requires_grad_(), problem.gain_in.requires_grad_()
    saved, _ = kept(problem.ours, x, g_in, None, problem.biases.requires_grad_())
    floats = [tensor for tensor in saved if tensor.is_floating_point()]
    assert sorted(tensor.shape for tensor in floats) == sorted([x.shape, g_in.shape, problem.scale.shape])
    assert problem.shape not in [tensor.shape for tensor in floats]
    assert sum(tensor.data_ptr() == x.data_ptr() for tensor in floats) == 1
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in floats)


def test_the_node_of_autograd_holds_no_tensor_beside_the_saved_ones(problem_of: MakeProblem, case: Case) -> None:
    """A tensor put on `ctx` would outlive its step under checkpointing, and no hook would see it."""
    problem = problem_of(case)
    y = problem.ours(*(tensor.requires_grad_() for tensor in everything(problem)))
    assert [name for name, value in vars(y.grad_fn).items() if isinstance(value, Tensor)] == []


def test_what_needs_no_gradient_keeps_nothing_for_it(problem_of: MakeProblem, kept: Kept) -> None:
    problem = problem_of("padded")
    bias, frozen, learning = problem.bias, problem.gain_out.clone(), problem.gain_out.clone().requires_grad_()
    data, hidden = problem.x.clone(), problem.x.clone().requires_grad_()
    assert kept(problem.ours, data, problem.gain_in, frozen, bias)[0] == []
    assert kept(problem.ours, data, None, frozen, problem.biases.clone().requires_grad_())[0] == []
    assert {tensor.ndim for tensor in kept(problem.ours, hidden, problem.gain_in, frozen, bias)[0]} <= {1, 2}
    assert {tensor.ndim for tensor in kept(problem.ours, hidden, None, None, bias)[0]} <= {1, 2}
    saved, y = kept(problem.ours, data, None, learning, bias)
    assert all(tensor.dtype != torch.uint8 for tensor in saved)
    y.sum().backward()
    twin = problem.gain_out.clone().requires_grad_()
    problem.twin(data, None, twin, bias).sum().backward()
    torch.testing.assert_close(learning.grad, twin.grad, rtol=1e-5, atol=1e-4)


def test_doubling_one_gain_changes_exactly_that_channel(problem_of: MakeProblem, case: Case) -> None:
    problem = problem_of(case)
    changed = problem.gain_out.clone()
    changed[1, 2] *= 2
    before, after = (problem.ours(problem.x, None, gain, None) for gain in (problem.gain_out, changed))
    axis = problem.product.channel
    u = problem.ours(problem.x, None, None, None).movedim(axis, 1)
    assert (u[1, 2] != 0).any()
    difference = (after - before).movedim(axis, 1)
    torch.testing.assert_close(difference[1, 2], before.movedim(axis, 1)[1, 2])
    difference[1, 2] = 0
    assert (difference == 0).all()


def test_gain_one_is_the_base_bit_for_bit(problem_of: MakeProblem, case: Case) -> None:
    problem = problem_of(case)
    ones, other_ones = torch.ones_like(problem.gain_in), torch.ones_like(problem.gain_out)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x = problem.x.to(dtype)
        base = problem.ours(x, None, None, problem.bias)
        assert torch.equal(problem.ours(x, None, other_ones, problem.bias), base)
        assert torch.equal(problem.ours(x, ones, other_ones, problem.bias.expand(3, -1)), base)


PADDED = Conv2dProduct((1, 1), (1, 1), (1, 1), 1)
WIDE = {
    "linear": (LinearProduct(), (16, 2560), (2, 8, 2560), ()),
    "conv": (PADDED, (16, 284, 3, 3), (2, 284, 4, 4), ()),
    "split conv": (PADDED, (16, 284, 3, 3), (2, 284, 4, 4), (200, 84)),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("wide", WIDE.values(), ids=WIDE)
def test_large_activations_stay_finite_in_half_precision(
    problem_of: MakeProblem, run: Run, wide: Case, dtype: torch.dtype, bits: int
) -> None:
    """Bare integer sums overflow float16: about 2560 products of 8-bit codes with activations of std 20 do."""
    problem = problem_of(wide, bits)
    problem.scale *= 0.2
    problem.zero[:] = 0
    x, *numbers = everything(problem)
    x = (20 * x).to(dtype)
    assert all(tensor.isfinite().all() for tensor in run(problem.ours, x, *numbers))
    if bits == 8:
        bare = problem.product.apply(x, problem.q.view(problem.shape).to(dtype))
        assert not bare.isfinite().all() or dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_runs_in_its_dtype_and_casts_back(
    problem_of: MakeProblem, run: Run, case: Case, dtype: torch.dtype
) -> None:
    problem = problem_of(case)

    def under_autocast(*inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype):
            value: Tensor = problem.ours(*inputs)
        return value

    ours = run(under_autocast, *everything(problem))
    plain = run(lambda x, *numbers: problem.ours(x.to(dtype), *numbers), *everything(problem))
    assert [tensor.dtype for tensor in ours] == [dtype, *[torch.float32] * 4]
    for mine, theirs in zip(ours, plain, strict=True):
        assert torch.equal(mine, theirs)


def leaves_of(problem: Any) -> list[Tensor]:
    return [tensor.clone().requires_grad_() for tensor in everything(problem)]


def test_a_backward_inside_autocast_sums_in_float32_all_the_same(problem_of: MakeProblem) -> None:
    problem = problem_of("tokens")

    def gradients(inside: bool) -> list[Tensor | None]:
        leaves = leaves_of(problem)
        y = problem.ours(*leaves)
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            y.backward(torch.ones_like(y))
        return [leaf.grad for leaf in leaves]

    for outside, inside in zip(gradients(False), gradients(True), strict=True):
        assert outside is not None
        assert inside is not None
        assert torch.equal(outside, inside)


def test_gradients_do_not_depend_on_the_layout_of_the_gradient_that_comes_in(
    problem_of: MakeProblem, case: Case
) -> None:
    problem = problem_of(case)
    leaves = leaves_of(problem)
    y = problem.ours(*leaves)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    turned = dy.transpose(1, -1).contiguous().transpose(1, -1)
    plain = torch.autograd.grad(y, leaves, dy, retain_graph=True)
    for one, other in zip(plain, torch.autograd.grad(y, leaves, turned), strict=True):
        assert torch.equal(one, other)


@SIDES
def test_refuses_to_train_gains_of_half_precision(problem_of: MakeProblem, side: str) -> None:
    problem = problem_of("tokens")
    x, gain = problem.x.bfloat16(), getattr(problem, side).bfloat16()
    gains = {"gain_in": (gain, None), "gain_out": (None, gain)}[side]
    assert problem.ours(x, *gains, None).dtype == torch.bfloat16
    gain.requires_grad_()
    with pytest.raises(RuntimeError, match=r"gains must be float32 to be trained, got torch\.bfloat16"):
        problem.ours(x, *gains, None)


@SIDES
def test_second_derivatives_are_refused_not_wrong(problem_of: MakeProblem, side: str) -> None:
    problem = problem_of("tokens")
    x, gain = problem.x.clone().requires_grad_(), getattr(problem, side)
    gains = {"gain_in": (gain, None), "gain_out": (None, gain)}[side]
    (dx,) = torch.autograd.grad(problem.ours(x, *gains, None).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()
