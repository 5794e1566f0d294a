"""Means per subject and bootstrap intervals: hand-computed cases, pairing, coverage by simulation, refusals."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from quantbooth.reporting.statistics import (
    Interval,
    expanded,
    mean_interval,
    paired_difference,
    ratio_of_means,
    subject_means,
)


def _named(values: list[float]) -> dict[str, float]:
    return {f"subject {index}": value for index, value in enumerate(values)}


def test_subject_means_by_hand_keep_the_order_of_first_appearance() -> None:
    means = subject_means([1.0, 4.0, 3.0, 6.0], ["mug", "duck", "mug", "duck"])
    assert list(means.items()) == [("mug", 2.0), ("duck", 5.0)]


def test_subject_means_refuse_a_value_that_is_not_finite_and_name_its_subject() -> None:
    with pytest.raises(ValueError, match="must be finite, got nan from subject 'duck'"):
        subject_means([1.0, float("nan")], ["mug", "duck"])
    with pytest.raises(ValueError, match="argument 2 is longer"):
        subject_means([1.0], ["mug", "duck"])


def test_a_constant_difference_has_an_interval_of_no_width() -> None:
    one, other = _named([0.5, 0.7, 0.6]), _named([0.25, 0.45, 0.35])
    found = paired_difference(one, {key: other[key] for key in reversed(other)}, np.random.default_rng(0))
    assert found.subjects == 3
    np.testing.assert_allclose([found.mean, found.low, found.high], 0.25)


def test_pairing_removes_what_subjects_differ_in() -> None:
    rng = np.random.default_rng(1)
    easy = rng.normal(0, 10, size=8)
    one, other = _named(list(easy + 0.1 + rng.normal(0, 0.02, size=8))), _named(list(easy))
    found = paired_difference(one, other, np.random.default_rng(0))
    assert found.excludes_zero()
    assert found.low < 0.1 < found.high and found.high - found.low < 0.1


def test_interval_is_equal_for_equal_seeds_and_ordered() -> None:
    means = _named([0.1, 0.4, 0.2, 0.9, 0.3])
    first = mean_interval(means, np.random.default_rng(3), resamples=500)
    assert first == mean_interval(means, np.random.default_rng(3), resamples=500)
    assert first.low < first.mean < first.high
    assert first.mean == pytest.approx(0.38)


def _covered(draw: Callable[[], dict[str, float]], rng: np.random.Generator, times: int = 400) -> float:
    """How often the interval holds the true mean 0.3."""
    found = [mean_interval(draw(), rng, resamples=1999) for _ in range(times)]
    return float(np.mean([one.low <= 0.3 <= one.high for one in found]))


@pytest.mark.parametrize("count", [6, 8, 20])
@pytest.mark.chain
def test_95_percent_intervals_cover_about_95_percent_of_the_time_from_six_subjects_on(count: int) -> None:
    rng = np.random.default_rng(count)
    covered = _covered(lambda: _named(list(rng.normal(0.3, 1.0, size=count))), rng)
    assert 0.91 <= covered <= 0.985  # 0.95 less what 6 subjects fall short, give or take three standard errors


def test_the_noise_of_seeds_is_covered_though_only_subjects_are_drawn_again() -> None:
    rng = np.random.default_rng(0)

    def eight_subjects_with_two_seeds() -> dict[str, float]:
        runs = rng.normal(0.3, 0.5, size=(8, 1)) + rng.normal(0.0, 1.0, size=(8, 2))
        return _named(list(runs.mean(axis=1)))

    assert 0.91 <= _covered(eight_subjects_with_two_seeds, rng) <= 0.985


def test_few_subjects_cover_less_than_they_say() -> None:
    rng = np.random.default_rng(1)
    two = _covered(lambda: _named(list(rng.normal(0.3, 1.0, size=2))), rng)
    four = _covered(lambda: _named(list(rng.normal(0.3, 1.0, size=4))), rng)
    assert 0.42 <= two <= 0.58 and 0.81 <= four <= 0.92


def test_the_asked_level_widens_as_subjects_become_few() -> None:
    assert expanded(0.95, 10_000) == pytest.approx(0.95, abs=1e-4)
    # n = 5: t = 2.7764 with 4 degrees of freedom, times sqrt(5 / 4) = 3.1042; Phi(-3.1042) = 0.000954
    assert expanded(0.95, 5) == pytest.approx(1 - 2 * 0.000954, abs=2e-6)
    assert expanded(0.95, 3) > expanded(0.95, 5) > expanded(0.95, 20) > 0.95


def test_excludes_zero() -> None:
    assert Interval(0.2, 0.1, 0.3, 5).excludes_zero() and Interval(-0.2, -0.3, -0.1, 5).excludes_zero()
    assert not Interval(0.2, -0.1, 0.5, 5).excludes_zero()


def test_too_few_and_unpaired_subjects_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two of them, got 1"):
        mean_interval({"mug": 0.5}, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"unpaired \['duck', 'fish'\]"):
        paired_difference({"mug": 1.0, "duck": 2.0}, {"mug": 1.0, "fish": 2.0}, np.random.default_rng(0))


def test_ratio_is_of_means_and_paired() -> None:
    one, other = {"mug": 1.0, "duck": 2.0, "fish": 3.0}, {"mug": 2.0, "duck": 4.0, "fish": 6.0}
    found = ratio_of_means(one, other, np.random.default_rng(0))
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    uneven = ratio_of_means(one, {"mug": 6.0, "duck": 4.0, "fish": 2.0}, np.random.default_rng(0))
    assert uneven.mean == pytest.approx(0.5) and uneven.low < 0.4 and uneven.high > 0.7


def test_ratio_refuses_unpaired_subjects_and_no_mean_to_divide_by() -> None:
    with pytest.raises(ValueError, match=r"got \['mug', 'duck'\] and \['mug', 'fish'\]"):
        ratio_of_means({"mug": 1.0, "duck": 2.0}, {"mug": 1.0, "fish": 2.0}, np.random.default_rng(0))
    with pytest.raises(ValueError, match="positive mean to divide by, got -1"):
        ratio_of_means({"mug": 1.0, "duck": 2.0}, {"mug": -1.0, "duck": -1.0}, np.random.default_rng(0))


def test_the_interval_of_a_ratio_is_that_of_all_resamples_at_the_expanded_level() -> None:
    """All 5^5 resamples by hand: the 0.1 % points, which the level for five subjects asks for, lie below the 2.5 %."""
    one, other = _named([1.0, 2.0, 3.0, 5.0, 9.0]), _named([6.0, 1.0, 4.0, 2.0, 3.0])
    pairs = np.array([[one[name], other[name]] for name in one])
    means = [pairs[list(drawn)].mean(0) for drawn in product(range(5), repeat=5)]
    ratios = np.sort([a / b for a, b in means])
    found = ratio_of_means(one, other, np.random.default_rng(0))
    assert found.mean == pytest.approx(20 / 16)
    assert np.quantile(ratios, 0.0003) <= found.low <= np.quantile(ratios, 0.003) < np.quantile(ratios, 0.02)
    assert np.quantile(ratios, 0.98) < np.quantile(ratios, 0.997) <= found.high <= np.quantile(ratios, 0.9997)
