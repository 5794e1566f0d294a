"""Prediction errors against a float64 loop, and stratified timesteps that cover their zone."""

import pytest
import torch

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.objective import denoising_error, mean_square, predict, spread_timesteps
from quantbooth.diffusion.schedule import Schedule
from quantbooth.timesteps.zones import Zone


def test_mean_square_equals_a_loop_in_float64(generator: torch.Generator) -> None:
    one, other = torch.randn(2, 3, 4, 5, 5, generator=generator).unbind()
    found = mean_square(one, other)
    for place in range(3):
        pairs = zip(one[place].flatten().tolist(), other[place].flatten().tolist(), strict=True)
        squares = [(a - b) ** 2 for a, b in pairs]
        assert float(found[place]) == pytest.approx(sum(squares) / len(squares), rel=1e-5)
    assert mean_square(one, one).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.usefixtures("unchecked")
def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match="both must have one shape"):
        mean_square(torch.zeros(2, 4, 8, 8), torch.zeros(1, 4, 8, 8))


def test_the_error_of_a_prediction_is_the_training_loss(base: Base, generator: torch.Generator) -> None:
    schedule, t = Schedule(base.scheduler_config), torch.tensor([3, 500])
    x_0, noise = torch.randn(2, 2, 24, 8, 8, generator=generator).unbind()
    with torch.no_grad():
        text = base.encode_prompts(["a red mug", "a duck"])
        predicted = predict(base, schedule, x_0, noise, t, text)
        expected = denoising_error(base, schedule, x_0, noise, t, text)
    torch.testing.assert_close(mean_square(predicted, schedule.target(x_0, noise, t)), expected)


@pytest.mark.parametrize(("start", "stop", "count"), [(0, 200, 20), (200, 700, 7), (5, 9, 30), (999, 1000, 3)])
def test_timesteps_are_one_from_each_equal_part_of_the_zone(start: int, stop: int, count: int) -> None:
    t = spread_timesteps(Zone("z", start, stop), count, torch.Generator().manual_seed(0))
    width = (stop - start) / count
    for place, found in enumerate(t.tolist()):
        assert start + int(place * width) <= found <= start + (place + 1) * width
        assert start <= found < stop


def test_every_timestep_of_a_zone_can_be_drawn_equally() -> None:
    draw = torch.Generator().manual_seed(1)
    drawn = torch.cat([spread_timesteps(Zone("z", 10, 15), 4, draw) for _ in range(500)])
    counts = torch.bincount(drawn, minlength=15)[10:]
    assert counts.sum() == 2000
    torch.testing.assert_close(counts / 2000, torch.full((5,), 0.2), atol=0.03, rtol=0)
