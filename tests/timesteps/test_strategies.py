"""Strategies against slow twins, and refusals."""

from fractions import Fraction

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
    graded,
    s1,
    s1s2,
    s2,
    s2_from_s1,
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


def test_one_set_may_have_several_intervals() -> None:
    strategy = s1([[0, 200], [600, 800]], "base", 1000)
    t = torch.tensor([0, 199, 200, 599, 600, 799, 800])
    assert strategy.route(t).tolist() == [1, 1, 0, 0, 1, 1, 0]
    assert (strategy.sets, strategy.names, len(strategy.runs)) == (1, ("selected",), 1)
    assert from_description(strategy.describe()) == strategy
    assert strategy.stretches == ((0, 200, 1), (200, 600, 0), (600, 800, 1), (800, 1000, 0))
    drawn = strategy.training_zones.draw(2000, torch.Generator().manual_seed(0))
    assert torch.equal(strategy.training_zones.index(drawn), torch.ones(2000, dtype=torch.long))
    assert 850 < int((drawn >= 600).sum()) < 1150
    assert s1([[100, 300]], "base", 1000) == s1([100, 300], "base", 1000)
    assert s1([[0, 200], [600, 800]], "tuned", 1000).route(t).tolist() == [1] * 7


@pytest.mark.parametrize(
    ("intervals", "told"),
    [
        ([[0, 200], [100, 300]], r"do not overlap, got \[0, 200\] before \[100, 300\]$"),
        ([[600, 800], [0, 200]], r"ascending order that do not overlap, got \[600, 800\] before \[0, 200\]$"),
        ([[0, 200], [900, 1001]], r"<= 1000, got \[900, 1001\]$"),
        ([[200, 200]], r"<= 1000, got \[200, 200\]$"),
    ],
)
def test_wrong_intervals_of_one_set_are_refused(intervals: list[list[int]], told: str) -> None:
    with pytest.raises(UserError, match=rf"^strategy.interval must .*{told}"):
        s1(intervals, "base", 1000)


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
    [
        baseline(1000),
        s1([200, 700], "base", 1000),
        s1([1, 9], "tuned", 1000),
        s2(ZONES, True, 1000),
        tas(3, 1000),
        graded(0.25, 1000),
        s2_from_s1(ZONES, 7, 9, 1000),
        s1s2(ZONES, [100, 750], 1000),
    ],
)
def test_a_description_makes_the_same_strategy_again(strategy: Strategy) -> None:
    assert from_description(strategy.describe()) == strategy


@pytest.mark.parametrize("least", [0.0, 0.5, 0.9])
def test_graded_falls_along_a_line_from_1_to_least(least: float) -> None:
    shares = graded(least, 1000).route(T)
    assert shares.shape == (1000, 1)
    line = [float(Fraction(least) + (1 - Fraction(least)) * Fraction(1000 - t, 1000)) for t in range(1000)]
    torch.testing.assert_close(shares[:, 0].double(), torch.tensor(line).double(), rtol=0, atol=1e-6)
    between = graded(least, 1000).route(torch.tensor([0.5]))
    torch.testing.assert_close(between, shares[:2].mean(dim=0, keepdim=True))
    assert float(shares[0]) == 1


def test_graded_is_trained_by_the_same_shares() -> None:
    strategy = graded(0.5, 1000)
    (zones,) = strategy.runs
    assert torch.equal(strategy.chosen(zones, T), strategy.route(T))


def test_only_a_constant_strength_has_stretches() -> None:
    assert baseline(1000).stretches == ((0, 1000, 1),)
    with pytest.raises(UserError, match="graded has another strength at every timestep"):
        _ = graded(0.5, 1000).stretches


@pytest.mark.parametrize("least", [-0.1, 1.0, float("nan")])
def test_a_least_strength_out_of_its_range_is_refused(least: float) -> None:
    with pytest.raises(UserError, match=rf"strategy.least .*, got {least}"):
        graded(least, 1000)


def test_descriptions_hold_only_what_a_strategy_has() -> None:
    usual = {"name", "timesteps", "trained", "served", "apart"}
    assert baseline(1000).describe().keys() == s2(ZONES, True, 1000).describe().keys() == usual
    assert s2_from_s1(ZONES, 0, 9, 1000).describe().keys() == usual
    assert s2_from_s1(ZONES, 7, 9, 1000).describe().keys() == usual | {"shared_steps"}
    assert s1s2(ZONES, None, 1000).describe().keys() == usual | {"wide"}
    assert graded(0.5, 1000).describe().keys() == usual | {"least"}


@pytest.mark.parametrize(("asked", "shared"), [(None, 4), (0, 0), (9, 9)])
def test_shared_steps_are_half_of_all_unless_told(asked: int | None, shared: int) -> None:
    strategy = s2_from_s1(ZONES, asked, steps=9, timesteps=1000)
    assert strategy.shared_steps == shared and len(strategy.runs) == 1
    assert torch.equal(strategy.route(T), s2(ZONES, False, 1000).route(T))


@pytest.mark.parametrize("asked", [10, -1])
def test_shared_steps_out_of_the_run_are_refused(asked: int) -> None:
    with pytest.raises(UserError, match=rf"strategy.shared_steps must be .*, got {asked}"):
        s2_from_s1(ZONES, asked, steps=9, timesteps=1000)


def test_s1s2_adds_a_wide_set_to_the_expert_of_each_zone() -> None:
    strategy = s1s2(ZONES, [100, 750], 1000)
    assert strategy.sets == 4 and strategy.names == ("wide", "clean_up", "content", "coarse")
    columns = [(T >= 100) & (T < 750), T < 200, (T >= 200) & (T < 700), T >= 700]
    assert torch.equal(strategy.route(T), torch.stack(columns, dim=1).float())
    assert (s1s2(ZONES, None, 1000).route(T)[:, 0] == 1).all()
    with pytest.raises(UserError, match="s1s2 adds two sets up"):
        _ = strategy.stretches


@pytest.mark.parametrize("wide", [[-1, 10], [5, 5], [0, 1001], [100, 300]])
def test_a_wide_set_outside_the_zones_is_refused(wide: list[int]) -> None:
    zones = {"low": [0, 200], "high": [400, 1000]}
    with pytest.raises(UserError, match=r"strategy.wide must be .*, got \["):
        s1s2(zones, wide, 1000)


def test_a_zone_with_the_name_of_the_wide_set_is_refused() -> None:
    with pytest.raises(UserError, match="named wide"):
        s1s2({"wide": [0, 1000]}, None, 1000)


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
