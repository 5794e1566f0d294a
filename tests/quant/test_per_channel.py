"""y = g * u + b and its gradients against a float64 twin; the saved tensors, and neutral values."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from quantbooth.quant.per_channel import gained, keeps_output

Run = Callable[..., list[Tensor]]
Kept = Callable[..., tuple[list[Tensor], Tensor]]
SHAPES = {"vectors": ((3, 5), -1), "tokens": ((3, 4, 5), -1), "pictures": ((3, 5, 2, 4), 1)}


@pytest.fixture(params=SHAPES)
def problem(request: pytest.FixtureRequest, generator: torch.Generator) -> dict[str, Any]:
    shape, channel = SHAPES[request.param]
    numbers = torch.rand(2, 3, 5, generator=generator)
    u = torch.randn(shape, generator=generator)
    return {"u": u, "gain": numbers[0] + 0.5, "shift": numbers[1] - 0.5, "channel": channel}


def inputs(problem: dict[str, Any], shifted: bool = True) -> list[Tensor | None]:
    return [problem["u"], problem["gain"], problem["shift"] if shifted else None]


def twin(problem: dict[str, Any]) -> Callable[..., Tensor]:
    """With the channel moved to the front and plain broadcasting, in float64."""
    channel = problem["channel"]

    def slow(u: Tensor, gain: Tensor, shift: Tensor | None) -> Tensor:
        y = u.double().movedim((0, channel), (-2, -1)) * gain.double()
        return (y if shift is None else y + shift.double()).movedim((-2, -1), (0, channel))

    return slow


def ours(problem: dict[str, Any]) -> Callable[..., Tensor]:
    return lambda u, gain, shift: gained(u, gain, shift, problem["channel"])


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("smallest", [0.5, 0.05, 0.0])
def test_equals_the_twin(problem: dict[str, Any], run: Run, shifted: bool, smallest: float) -> None:
    problem["gain"][0, 0] = smallest
    given = inputs(problem, shifted)
    for mine, theirs in zip(run(ours(problem), *given), run(twin(problem), *given), strict=True):
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("smallest", [0.5, 0.05])
def test_gradcheck(problem: dict[str, Any], smallest: float) -> None:
    problem["gain"][0, 0] = smallest
    leaves = tuple(tensor.double().requires_grad_() for tensor in inputs(problem) if tensor is not None)
    assert torch.autograd.gradcheck(ours(problem), leaves)


def test_nothing_changes_at_gain_1_and_shift_0(problem: dict[str, Any]) -> None:
    ones, zeros = torch.ones(3, 5), torch.zeros(3, 5)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        u = problem["u"].to(dtype)
        for shift in (zeros, zeros[:1], None):
            y = gained(u, ones, shift, problem["channel"])
            assert y.dtype == dtype
            assert torch.equal(y, u)


@pytest.mark.parametrize(("smallest", "which"), [(0.5, "y"), (0.05, "u")])
def test_one_activation_is_kept(problem: dict[str, Any], kept: Kept, smallest: float, which: str) -> None:
    problem["gain"][0, 0] = smallest
    u, gain, shift = (tensor.clone().requires_grad_() for tensor in inputs(problem) if tensor is not None)
    saved, y = kept(ours(problem), u, gain, shift)
    assert sum(torch.equal(tensor, {"y": y, "u": u}[which]) for tensor in saved) == 1
    assert len(saved) == {"y": 3, "u": 2}[which]  # beside it the gain, and for y the shift


def test_no_value_on_a_gpu_is_looked_at() -> None:
    """It would be waited for; and a graph's warm-up would run other kernels than its recording."""
    with FakeTensorMode():
        gain, shift = torch.ones(2, 3, device="cuda", requires_grad=True), torch.ones(1, 3, device="cuda")
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            assert not keeps_output(gain, shift, dtype)
            assert keeps_output(gain, None, dtype) == (dtype != torch.float16)


@pytest.mark.parametrize(("dtype", "shifted", "which"), [
    (torch.bfloat16, False, "y"), (torch.bfloat16, True, "u"), (torch.float16, False, "u"),
])  # fmt: skip
def test_half_precision_keeps_what_has_the_error_of_u(
    problem: dict[str, Any], kept: Kept, run: Run, dtype: torch.dtype, shifted: bool, which: str
) -> None:
    """Also where gains are near 0; at exactly 0 the gradient of y's gain is 0."""
    problem["gain"][0] = torch.tensor([1e-4, 0.05, -0.05, 2.0, 0.5])
    u, gain, shift = (None if one is None else one.clone().requires_grad_() for one in inputs(problem, shifted))
    assert u is not None and gain is not None
    saved, y = kept(ours(problem), half := u.detach().to(dtype), gain, shift)
    assert sum(torch.equal(tensor, {"y": y, "u": half}[which]) for tensor in saved) == 1
    leaves = [u.detach().to(dtype), gain.detach(), None if shift is None else shift.detach()]
    for mine, theirs in zip(run(ours(problem), *leaves), run(twin(problem), *leaves), strict=True):
        assert (mine.double() - theirs.double()).norm() <= 0.02 * theirs.double().norm()
    leaves[1] = torch.zeros_like(gain)
    assert all(one.isfinite().all() for one in run(ours(problem), *leaves))


def test_half_precision_is_summed_in_full_and_not_trained_in(problem: dict[str, Any], run: Run) -> None:
    u, gain, shift = inputs(problem)
    assert u is not None
    assert gain is not None
    found = run(ours(problem), u.bfloat16(), gain, shift)
    assert [tensor.dtype for tensor in found] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    for mine, theirs in zip(found, run(twin(problem), u.bfloat16(), gain, shift), strict=True):
        assert (mine.double() - theirs.double()).norm() <= 0.02 * theirs.double().norm()
    with pytest.raises(RuntimeError, match="gains must be float32 to be trained"):
        gained(u, gain.bfloat16().requires_grad_(), None, problem["channel"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_of_large_maps_are_no_coarser_in_half_precision(
    generator: torch.Generator, dtype: torch.dtype
) -> None:
    """4096 terms are summed: their products and their sum would each be rounded to 8 or 11 bits."""
    u, dy = (torch.randn(2, 5, 64, 64, generator=generator).to(dtype) for _ in range(2))
    gain, shift = torch.ones(2, 5, requires_grad=True), torch.zeros(2, 5, requires_grad=True)
    gained(u, gain, shift, 1).backward(dy)
    for found, terms in ((gain.grad, dy.double() * u.double()), (shift.grad, dy.double())):
        assert found is not None
        torch.testing.assert_close(found.double(), terms.sum((2, 3)), rtol=0, atol=1e-3)
