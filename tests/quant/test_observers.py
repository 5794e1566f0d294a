"""Weight observers against their definitions."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from quantbooth.quant import observers
from quantbooth.quant.activations import ActivationQuantizer
from quantbooth.quant.format import BITS, Grid, dequantize, quantize
from quantbooth.quant.observers import MinMaxObserver, MSEObserver, ScaleSearch
from quantbooth.quant.surgery import quantize_
from quantbooth.runtime.errors import UserError


def heavy_tailed(rows: int, n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, n, generator=generator) ** 3 * 0.05


def error(weight: Tensor, search: ScaleSearch, norm: float) -> Tensor:
    scale, zero = search(weight)
    restored = dequantize(quantize(weight, scale, zero, search.grid), scale, zero)
    return (restored.double() - weight.double()).abs().pow(norm).sum(1)


@pytest.mark.parametrize("bits", BITS)
def test_min_max_spans_the_range(bits: int) -> None:
    weight = heavy_tailed(16, 100)
    scale, zero = MinMaxObserver(Grid(bits))(weight)
    torch.testing.assert_close(scale * Grid(bits).levels, weight.amax(1) - weight.amin(1))
    restored = dequantize(quantize(weight, scale, zero, Grid(bits)), scale, zero)
    assert ((restored - weight).abs() <= scale[:, None] * 1.0001).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("norm", [1.0, 2.0, 2.4])
def test_mse_is_never_worse_than_min_max_in_its_norm(bits: int, norm: float) -> None:
    for seed in range(5):
        weight = heavy_tailed(64, 72, seed)
        ours, theirs = (
            error(weight, MSEObserver(Grid(bits), norm), norm),
            error(weight, MinMaxObserver(Grid(bits)), norm),
        )
        assert (ours <= theirs * (1 + 1e-5)).all()
        assert bits == 8 or ours.sum() < theirs.sum()


def test_mse_finds_the_best_point_of_a_plain_search() -> None:
    weight, grid = heavy_tailed(4, 60), Grid(3)
    search = MSEObserver(grid)
    for row, found in zip(weight, error(weight, search, 2.4), strict=True):
        errors = []
        for percent in range(100, 20, -1):
            low, high = float(row.min()) * percent / 100, float(row.max()) * percent / 100
            scale = (high - low) / 7
            zero = round(-low / scale)
            codes = (row.double() / scale).round().add(zero).clamp(0, 7)
            errors.append(float(((codes - zero) * scale - row.double()).abs().pow(2.4).sum()))
        assert len(errors) == 80
        assert float(found) == pytest.approx(min(errors), rel=1e-4)


@pytest.mark.parametrize("make", [MinMaxObserver, MSEObserver])
@pytest.mark.parametrize("bits", BITS)
def test_a_symmetric_grid_has_one_zero_point_and_reaches_the_farther_end(
    make: Callable[[Grid], ScaleSearch], bits: int
) -> None:
    grid, weight = Grid(bits, symmetric=True), torch.cat([heavy_tailed(8, 100), torch.zeros(1, 100)])
    scale, zero = make(grid)(weight)
    assert (zero == 2 ** (bits - 1)).all()
    assert (scale > 0).all()
    steps = (2 ** (bits - 1), 2 ** (bits - 1) - 1)  # below and above 0
    reach = torch.maximum(-weight.amin(1) / steps[0], weight.amax(1) / steps[1])[:-1]
    if make is MinMaxObserver:
        torch.testing.assert_close(scale[:-1], reach)
        restored = dequantize(quantize(weight, scale, zero, grid), scale, zero)
        assert ((restored - weight).abs() <= scale[:, None] * 0.5001).all()
    else:
        assert (scale[:-1] <= reach).all()
        least, most = error(weight, make(grid), 2.4), error(weight, MinMaxObserver(grid), 2.4)
        assert (least <= most * (1 + 1e-5)).all()


@pytest.mark.parametrize("make", [MinMaxObserver, MSEObserver])
@pytest.mark.parametrize("bits", BITS)
def test_zero_points_are_codes_and_zero_is_exact(make: Callable[[Grid], ScaleSearch], bits: int) -> None:
    weight = torch.cat([heavy_tailed(3, 20), heavy_tailed(3, 20).abs() + 1, -heavy_tailed(3, 20).abs() - 1])
    weight = torch.cat([weight, torch.zeros(1, 20), torch.full((1, 20), 0.3), torch.full((1, 20), -0.3)])
    scale, zero = make(Grid(bits))(weight)
    assert (scale > 0).all()
    assert torch.equal(zero, zero.round().clamp(0, Grid(bits).levels))
    nothing = torch.zeros(len(weight), 1)
    assert torch.equal(dequantize(quantize(nothing, scale, zero, Grid(bits)), scale, zero), nothing)
    constant = dequantize(quantize(weight, scale, zero, Grid(bits)), scale, zero)[-3:]
    torch.testing.assert_close(constant, weight[-3:])


@pytest.mark.parametrize("search", [MinMaxObserver(Grid(4)), MSEObserver(Grid(4))])
def test_rows_do_not_depend_on_each_other_nor_on_blocks(search: ScaleSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = heavy_tailed(7, 30)
    whole = search(weight)
    monkeypatch.setattr(observers, "BLOCK", 65)
    for at_once, in_blocks in zip(whole, search(weight), strict=True):
        assert torch.equal(at_once, in_blocks)


def test_half_precision_weights_are_searched_in_float32() -> None:
    weight = heavy_tailed(4, 30).half()
    for ours, theirs in zip(MSEObserver(Grid(4))(weight), MSEObserver(Grid(4))(weight.float()), strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("unchecked")
def test_refuses_what_it_cannot_search() -> None:
    search = MinMaxObserver(Grid(4))
    with pytest.raises(ValueError, match="must be finite"):
        search(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(ValueError, match=r"non-empty matrix \[out, n\], got shape \(2, 2, 2\)"):
        search(torch.zeros(2, 2, 2))
    with pytest.raises(ValueError, match=r"points must be in \[1, 100\], got 101"):
        MSEObserver(Grid(4), points=101)
    with pytest.raises(ValueError, match="norm must be positive, got 0"):
        MSEObserver(Grid(4), lp_norm=0)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("row", [[-3e38, 3e38], [1e-45, 0.0], [0.0, -1e-45]])
@pytest.mark.parametrize("search", [MinMaxObserver, MSEObserver])
def test_weights_whose_scale_is_zero_or_infinite_are_refused(
    search: type[ScaleSearch], row: list[float], symmetric: bool
) -> None:
    if symmetric and 3e38 in row:
        pytest.skip("a symmetric scale of these is finite")
    with pytest.raises(UserError, match="scale of weight must be positive and finite .*got (-?0|inf)"):
        search(Grid(8, symmetric))(torch.tensor([[1.0, -1.0], row]))


def test_the_layer_of_such_a_weight_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    nn.init.constant_(model[0].get_parameter("weight"), 1e-45)
    with pytest.raises(UserError, match="^layer '0': "):
        quantize_(model, MinMaxObserver(Grid(8)))


@pytest.mark.parametrize("scale", [0.0, float("inf"), float("nan"), -1.0])
def test_no_code_is_made_with_such_a_scale(scale: float) -> None:
    with pytest.raises(UserError, match="positive and finite"):
        quantize(torch.ones(2, 3), torch.tensor([1.0, scale]), torch.zeros(2), Grid(4))


@pytest.mark.parametrize("ends", [(-3e38, 3e38), (0.0, 1e-45)])
def test_an_activation_of_such_a_range_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(UserError, match="scale of an activation"):
        ActivationQuantizer(8).fit_(*(torch.tensor([end]) for end in ends))
