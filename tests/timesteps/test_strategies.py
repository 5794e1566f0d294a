"""Strategies against slow twins, and refusals."""

import pytest
import torch

from quantbooth.runtime.errors import UserError
from quantbooth.timesteps.strategies import (
    Strategy,
    Undecided,
    adaptive,
    baseline,
    decided,
    from_description,
    s1,
    s2,
    tas,
)

ZONES = {"clean_up": [0, 200], "content": [200, 700], "coarse": [700, 1000]}
T = torch.arange(1000)


def test_baseline_serves_everything_with_its_one_set() -> None:
    assert (baseline(1000).route(T) == 1).all()


def test_s1_serves_its_interval_and_leaves_the_rest_to_the_base() -> None:
    expected = ((T >= 200) & (T < 700)).long()
    assert torch.equal(s1([200, 700], "base", 1000).route(T), expected)


def test_s1_may_serve_everything_but_still_trains_on_its_interval_only() -> None:
    strategy = s1([200, 700], "tuned", 1000)
    assert (strategy.route(T) == 1).all()
    drawn = strategy.runs[0].draw(1000, torch.Generator().manual_seed(0))
    assert drawn.min() >= 200
    assert drawn.max() < 700


def test_s2_has_one_expert_per_zone() -> None:
    strategy = s2(ZONES, apart=False, timesteps=1000)
    assert strategy.sets == 3
    assert torch.equal(strategy.route(T), 1 + (T >= 200).long() + (T >= 700).long())
    assert len(strategy.runs) == 1


def test_s2_apart_trains_each_expert_in_a_run_of_its_own() -> None:
    runs = s2(ZONES, apart=True, timesteps=1000).runs
    assert [(run.zones[0].start, run.zones[0].stop) for run in runs] == [(0, 200), (200, 700), (700, 1000)]
    for run in runs:
        t = run.draw(100, torch.Generator().manual_seed(0))
        assert (run.index(t) == 1).all()


def test_tas_leaves_no_timestep_uncovered() -> None:
    assert tas(4, 1000).route(T).bincount().tolist() == [0, 250, 250, 250, 250]


@pytest.mark.parametrize(
    "strategy",
    [baseline(1000), s1([200, 700], "base", 1000), s1([1, 9], "tuned", 1000), s2(ZONES, True, 1000), tas(3, 1000)],
)
def test_a_description_makes_the_same_strategy_again(strategy: Strategy) -> None:
    assert from_description(strategy.describe()) == strategy


@pytest.mark.parametrize("apart", [False, True])
def test_adaptive_zones_are_those_whose_bins_agree(apart: bool) -> None:
    plan = adaptive(3, bins=7, draws=4, apart=apart, timesteps=1000)
    assert plan.undecided == Undecided(7, 4)
    groups = torch.eye(3).repeat_interleave(torch.tensor([1, 4, 2]), dim=0)
    made = decided(plan, groups @ groups.T)
    borders = [(zone.start, zone.stop) for zone in made.training_zones.zones]
    assert borders == [(0, 143), (143, 715), (715, 1000)]
    assert made.sampling_zones == made.training_zones
    assert made.undecided is None
    assert from_description(made.describe()) == made
    kept = [
        (one.name, one.sets, len(one.runs), [zone.name for zone in one.training_zones.zones]) for one in (plan, made)
    ]
    assert kept[0] == kept[1]


@pytest.mark.parametrize(("count", "bins"), [(4, 3), (2, 1001)])
def test_bins_are_at_least_as_many_as_zones_and_at_most_as_many_as_timesteps(count: int, bins: int) -> None:
    with pytest.raises(UserError, match=f"^strategy.bins must be from .* = {count} to .* = 1000, got {bins}$"):
        adaptive(count, bins, draws=4, apart=False, timesteps=1000)
