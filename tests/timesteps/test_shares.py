"""What each set sees and serves: against draws, counts of steps and the sum of a run."""

import pytest
import torch

from quantbooth.timesteps.samplers import LogitNormal, TimestepSampler, Uniform
from quantbooth.timesteps.shares import seen, serving
from quantbooth.timesteps.strategies import Strategy, baseline, graded, s1, s1s2, s2, s2_from_s1

ZONES = {"clean_up": [0, 354], "content": [354, 934], "coarse": [934, 1000]}
STEPS = torch.arange(1, 1000, 20)


@pytest.mark.parametrize("sampler", [Uniform(), LogitNormal(0.5, 1.0, "reject"), LogitNormal(-1.0, 0.5, "rescale")])
@pytest.mark.parametrize("strategy", [s2(ZONES, False, 1000), s1([[0, 200], [600, 800]], "base", 1000)])
def test_experts_of_a_run_see_its_density_in_their_zones(strategy: Strategy, sampler: TimestepSampler) -> None:
    found = seen(strategy, sampler, 0.0)
    torch.testing.assert_close(found.sum(dim=0), sampler.density(strategy.training_zones))
    drawn = sampler.draw(strategy.training_zones, 20_000, torch.Generator().manual_seed(0))
    counts = strategy.training_zones.index(drawn).bincount(minlength=strategy.sets + 1)[1:] / len(drawn)
    torch.testing.assert_close(found.sum(dim=1), counts.double(), atol=0.02, rtol=0)


def test_separate_runs_are_each_seen_whole_and_shared_steps_by_all() -> None:
    assert seen(s2(ZONES, True, 1000), Uniform(), 0.0).sum(dim=1).tolist() == pytest.approx([1, 1, 1])
    shared = seen(s2_from_s1(ZONES, 100, 400, 1000), Uniform(), 0.25)
    assert shared.sum(dim=1).tolist() == pytest.approx([0.25 + 0.75 * share for share in (0.354, 0.58, 0.066)])
    assert shared[0, 500] == pytest.approx(0.25 / 1000) and shared[0, 100] == pytest.approx(1 / 1000)


def test_a_wide_set_sees_its_interval_and_serves_with_the_experts() -> None:
    strategy = s1s2(ZONES, [200, 1000], 1000)
    found, serves = seen(strategy, Uniform(), 0.0), serving(strategy, STEPS)
    assert found.sum(dim=1).tolist() == pytest.approx([0.8, 0.354, 0.58, 0.066])
    assert serves.sum(dim=0).tolist() == [40, 18, 29, 3]


@pytest.mark.parametrize(
    ("strategy", "counts"),
    [
        (baseline(1000), [50]),
        (graded(0.5, 1000), [50]),
        (s1([354, 934], "base", 1000), [29]),
        (s1([354, 934], "tuned", 1000), [50]),
        (s2(ZONES, True, 1000), [18, 29, 3]),
    ],
)
def test_sets_serve_the_steps_in_their_sampling_zones(strategy: Strategy, counts: list[int]) -> None:
    assert serving(strategy, STEPS).sum(dim=0).tolist() == counts
    assert serving(strategy, STEPS.double() + 0.5).sum(dim=0).tolist() == counts
