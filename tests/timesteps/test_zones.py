"""Zones against slow twins, and refusals."""

from typing import Any

import pytest
import torch

from quantbooth.runtime.errors import UserError
from quantbooth.timesteps.zones import Zone, Zones, equal_zones, zones_from_borders

SD_BORDERS = {"clean_up": [0, 354], "content": [354, 934], "coarse": [934, 1000]}


def test_zones_are_half_open_at_every_border() -> None:
    zones = zones_from_borders(SD_BORDERS, 1000)
    t = torch.tensor([0, 353, 354, 933, 934, 999])
    assert zones.index(t).tolist() == [1, 1, 2, 2, 3, 3]


def test_index_equals_a_plain_loop_over_all_timesteps() -> None:
    zones = Zones((Zone("a", 10, 200), Zone("b", 200, 201), Zone("c", 500, 1000)), 1000)

    def slow(t: int) -> int:
        return next((k for k, z in enumerate(zones.zones, 1) if z.start <= t < z.stop), 0)

    assert zones.index(torch.arange(1000)).tolist() == [slow(t) for t in range(1000)]


def test_fractional_timesteps_fall_on_the_same_side_as_their_floor() -> None:
    zones = zones_from_borders(SD_BORDERS, 1000)
    t = torch.tensor([353.999, 354.0, 933.5, 934.0])
    assert zones.index(t).tolist() == zones.index(t.floor().long()).tolist()


@pytest.mark.parametrize("t", [-1, 1000])
def test_a_timestep_outside_the_schedule_is_refused(t: int) -> None:
    with pytest.raises(ValueError, match=rf"timesteps must be in \[0, 1000\), got \[{t}\]"):
        equal_zones(1, 1000).index(torch.tensor([t]))
    with pytest.raises(ValueError, match=r"timesteps must be in"):
        equal_zones(1, 1000).index(torch.tensor([500, t, 3]))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_equal_zones_are_the_floor_rule_of_tuneqdm(count: int) -> None:
    t = torch.arange(1000)
    assert torch.equal(equal_zones(count, 1000).index(t) - 1, t * count // 1000)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("borders", "message"),
    [
        ({"x": [300, 1001]}, r"0 <= start < stop <= 1000, got x \[300, 1001\)"),
        ({"x": [300, 300]}, r"0 <= start < stop <= 1000"),
        ({"x": [-5, 300]}, r"0 <= start < stop <= 1000"),
        ({"x": [0, 300], "y": [299, 400]}, r"must not overlap, got x \[0, 300\) and y \[299, 400\)"),
    ],
)
def test_bad_intervals_are_refused_with_what_was_found(borders: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        zones_from_borders(borders, 1000)


def test_draws_cover_the_zones_evenly_and_nothing_else() -> None:
    zones = Zones((Zone("a", 0, 10), Zone("b", 50, 80)), 100)
    t = zones.draw(40_000, torch.Generator().manual_seed(0))
    counts = torch.bincount(t, minlength=100)
    assert counts[10:50].sum() == 0
    assert counts[80:].sum() == 0
    inside = torch.cat([counts[:10], counts[50:80]]).double()
    assert ((inside - 1000).abs() < 5 * 1000**0.5).all()


def test_draws_are_decided_by_the_generator() -> None:
    zones = equal_zones(3, 1000)
    draws = [zones.draw(50, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws)
