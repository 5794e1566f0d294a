"""Intervals: a ratio of paired means and a share against their formulas, coverage, and every refusal."""

import numpy as np
import pytest

from quantbooth.reporting.statistics import mean, relative_increase, share


def test_a_mean_has_the_interval_of_the_normal_law_when_there_are_many() -> None:
    values = np.random.default_rng(0).gamma(2.0, 1.0, 2000)
    found, half = mean(values, np.random.default_rng(1)), 1.96 * values.std(ddof=1) / np.sqrt(2000)
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_numbers_alike_but_for_rounding_have_an_interval_too() -> None:
    found = mean([0.1 + 0.2, 0.3, 0.3], np.random.default_rng(0))
    assert found.low == pytest.approx(found.high)


def test_the_increase_is_of_the_means_and_pairs_make_it_narrow() -> None:
    draw = np.random.default_rng(0)
    theirs = draw.gamma(1.0, 1.0, 300)
    ours = theirs * draw.normal(1.10, 0.02, 300)
    found = relative_increase(ours, theirs, np.random.default_rng(1))
    assert found.mean == pytest.approx(ours.sum() / theirs.sum() - 1)
    assert found.low < found.mean < found.high
    assert found.high - found.low < 0.02  # unpaired means of such numbers lie 10 % apart by chance
    assert found.subjects == 300


def test_equal_numbers_have_no_increase_at_all() -> None:
    found = relative_increase([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], np.random.default_rng(0))
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)


def test_the_interval_of_an_increase_covers_what_it_should() -> None:
    covered = []
    for seed in range(120):
        draw = np.random.default_rng(seed)
        theirs = draw.gamma(2.0, 1.0, 80)
        ours = theirs + draw.gamma(1.0, 0.4, 80)  # expected increase 0.2
        found = relative_increase(ours, theirs, draw)
        covered.append(found.low <= 0.2 <= found.high)
    assert 0.86 <= np.mean(covered) <= 1.0


def test_a_share_has_wilsons_interval() -> None:
    hits, n, z = [1.0] * 7 + [0.0] * 3, 10, 1.959963984540054
    found, p = share(hits), 0.7
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert (found.mean, found.subjects) == (0.7, 10)
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half))
    assert share([1.0] * 20).low < 0.9


def test_refusals_say_what_must_hold() -> None:
    draw = np.random.default_rng(0)
    with pytest.raises(ValueError, match="two items or more, got 1"):
        mean([1.0], draw)
    with pytest.raises(ValueError, match="two pairs or more"):
        relative_increase([1.0], [1.0], draw)
    with pytest.raises(ValueError, match="two pairs or more, got 2 and 3"):
        relative_increase([1.0, 2.0], [1.0, 2.0, 3.0], draw)
    with pytest.raises(ValueError, match="positive numbers"):
        relative_increase([1.0, 2.0], [0.0, 1.0], draw)
    for wrong in ([], [0.5, 1.0], [float("nan")]):
        with pytest.raises(ValueError, match="ones and zeros"):
            share(wrong)
