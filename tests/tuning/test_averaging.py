"""EMA of parameters: the formula, and exact restoration after use."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from quantbooth.tuning.averaging import Average


def moved(decay: float, steps: int, seed: int = 0) -> tuple[list[nn.Parameter], Average, list[list[torch.Tensor]]]:
    """Two parameters that are moved in place, their average, and what they were after each step."""
    draw = torch.Generator().manual_seed(seed)
    numbers = [nn.Parameter(torch.randn(shape, generator=draw)) for shape in ((3, 4), (5,))]
    average, history = Average(numbers, decay), []
    for _ in range(steps):
        with torch.no_grad():
            for parameter in numbers:
                parameter.add_(torch.randn(parameter.shape, generator=draw))
        average.update_()
        history.append([parameter.detach().clone() for parameter in numbers])
    return numbers, average, history


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.999])
def test_equals_the_formula_in_float64(decay: float) -> None:
    numbers, average, history = moved(decay, 30)
    expected = [first.double() for first in history[0]]
    for n, step in enumerate(history[1:], start=1):
        d = min(decay, (1 + n) / (10 + n))
        expected = [d * mean + (1 - d) * now.double() for mean, now in zip(expected, step, strict=True)]
    with average.in_place():
        for parameter, mean in zip(numbers, expected, strict=True):
            torch.testing.assert_close(parameter.detach().double(), mean, rtol=1e-5, atol=1e-6)


def test_before_the_first_step_it_is_where_the_numbers_start() -> None:
    numbers = [nn.Parameter(torch.ones(2))]
    with Average(numbers, 0.9).in_place():
        assert (numbers[0] == 1).all()


def test_afterwards_the_numbers_are_what_they_were_also_after_an_error() -> None:
    numbers, average, history = moved(0.9, 5)
    for error in (False, True):
        with pytest.raises(ValueError, match="meanwhile") if error else nullcontext(), average.in_place():
            assert not torch.equal(numbers[0], history[-1][0])
            if error:
                raise ValueError("meanwhile")
        assert all(torch.equal(parameter, last) for parameter, last in zip(numbers, history[-1], strict=True))
        assert all(parameter.requires_grad and parameter.grad is None for parameter in numbers)


def test_looking_at_it_changes_no_later_average() -> None:
    (one, average, _), (other, looked_at, _) = moved(0.9, 4), moved(0.9, 4)
    with looked_at.in_place():
        pass
    for numbers, mean in ((one, average), (other, looked_at)):
        with torch.no_grad():
            numbers[0].add_(1)
        mean.update_()
    with average.in_place(), looked_at.in_place():
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
