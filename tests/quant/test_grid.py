"""The quantization grid: arithmetic and refusals."""

from typing import Any

import pytest
import torch

from quantbooth.quant.format import BITS, Grid, dequantize, quantize
from quantbooth.runtime.errors import UserError


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("bits", [0, 1, 5, 16, -4, 4.0, True, "4", None])
def test_refuses_bits_not_offered(bits: Any) -> None:
    with pytest.raises(UserError, match="bits must be one of 2, 3, 4, 8, got"):
        Grid(bits)


@pytest.mark.usefixtures("unchecked")
def test_refuses_a_symmetry_that_is_neither_true_nor_false() -> None:
    with pytest.raises(UserError, match="symmetric must be true or false, got 'no'"):
        Grid(4, symmetric="no")  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", BITS)
def test_codes_on_the_grid_come_back(bits: int) -> None:
    grid = Grid(bits)
    codes = torch.arange(grid.levels + 1, dtype=torch.uint8).repeat(2, 1)
    scale, zero = torch.tensor([0.25, 3.0]), torch.tensor([0.0, float(grid.levels)])
    assert torch.equal(quantize(dequantize(codes, scale, zero), scale, zero, grid), codes)


def test_rounds_to_the_nearest_code_and_clips() -> None:
    weight = torch.tensor([[-9.0, -0.6, 0.0, 0.4, 0.6, 9.0]])
    codes = quantize(weight, torch.tensor([0.5]), torch.tensor([1.0]), Grid(2))
    assert codes.tolist() == [[0, 0, 1, 2, 2, 3]]


def test_error_is_at_most_half_a_step_inside_the_range() -> None:
    weight = torch.rand(3, 5, 2, 2, generator=torch.Generator().manual_seed(0)) * 15 - 4
    scale, zero = torch.ones(3), torch.full((3,), 4.0)
    restored = dequantize(quantize(weight, scale, zero, Grid(4)), scale, zero)
    assert (restored - weight).abs().max() <= 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dequantizes_with_one_rounding_only(dtype: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.uint8).repeat(2, 1)
    scale, zero = torch.tensor([0.0123, 0.7]), torch.tensor([3, 255], dtype=torch.uint8)
    exact = (codes.double() - zero.double()[:, None]) * scale.double()[:, None]
    restored = dequantize(codes, scale, zero, dtype)
    assert restored.dtype == dtype
    torch.testing.assert_close(restored.double(), exact, rtol=0.51 * torch.finfo(dtype).eps + 1e-7, atol=0)
