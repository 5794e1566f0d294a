"""Holm, the paired test and the smallest difference seen: cases by hand, and simulations of both kinds of error."""

import numpy as np
import pytest

from quantbooth.reporting.statistics import ALPHA, POWER, holm, paired_p, smallest_seen


def test_holm_by_hand() -> None:
    # sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, of which the last may not fall below the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04] and holm([]) == []
    assert holm([0.02, 0.02, 0.02]) == pytest.approx([0.06, 0.06, 0.06])


def test_holm_refuses_what_is_no_probability() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\], got \[0\.5, 1\.2\]"):
        holm([0.5, 1.2])
    with pytest.raises(ValueError, match="nan"):
        holm([float("nan")])


def test_a_family_of_nothing_claims_something_no_more_often_than_alpha() -> None:
    rng = np.random.default_rng(0)
    claimed = bare = 0
    for _ in range(1000):
        p = [paired_p(list(rng.normal(size=8))) for _ in range(6)]
        claimed += min(holm(p)) < ALPHA
        bare += min(p) < ALPHA
    assert claimed / 1000 < ALPHA + 3 * (ALPHA * (1 - ALPHA) / 1000) ** 0.5
    assert bare / 1000 > 0.2  # without correction: 1 - 0.95 ** 6 = 0.26


def test_paired_p_by_hand() -> None:
    # mean 1, s = sqrt(5 / 3), t = sqrt(4) / s = 1.5492 with 3 degrees of freedom
    assert paired_p([-0.5, 0.5, 1.5, 2.5]) == pytest.approx(0.21916, abs=1e-4)
    # two differences: Student's t of one degree is Cauchy's, p = 1 - 2 / pi atan(t), t = 2 / 1
    assert paired_p([1.0, 3.0]) == pytest.approx(1 - 2 / np.pi * np.arctan(2.0))


def test_equal_differences_have_no_spread_to_judge_by() -> None:
    assert paired_p([0.1 + 0.2 - 0.3 + 0.04, 0.04, 0.04]) == 0.0
    assert paired_p([0.1 + 0.2 - 0.3, 0.0, 0.0]) == 1.0
    with pytest.raises(ValueError, match="two differences or more, got 1"):
        paired_p([0.5])


def test_smallest_seen_by_hand() -> None:
    # Cohen's table: a two-sided paired t-test at 5 % has power 80 % with 34 pairs at d = 0.495, with 10 at d = 0.9964
    thirty_four = [-1.0, 1.0] * 17
    spread = float(np.std(thirty_four, ddof=1))
    assert smallest_seen(thirty_four) / spread == pytest.approx(0.4950, abs=2e-3)
    ten = [-1.0, 1.0] * 5
    assert smallest_seen(ten) / float(np.std(ten, ddof=1)) == pytest.approx(0.9964, abs=2e-3)


def test_smallest_seen_follows_the_spread_and_grows_with_the_comparisons() -> None:
    d = [0.1, -0.2, 0.3, 0.0, 0.2, -0.1]
    assert smallest_seen([10 * value for value in d]) == pytest.approx(10 * smallest_seen(d))
    assert smallest_seen([value + 5 for value in d]) == pytest.approx(smallest_seen(d))
    assert smallest_seen(d, 1) < smallest_seen(d, 4) < smallest_seen(d, 12)
    assert smallest_seen([0.3, 0.3, 0.3]) == 0.0
    with pytest.raises(ValueError, match="got 1 and 1"):
        smallest_seen([0.5])


def test_a_difference_of_that_size_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(0)
    true = smallest_seen([-1.0, 1.0] * 4, comparisons=3) / float(np.std([-1.0, 1.0] * 4, ddof=1))
    found = [paired_p(list(rng.normal(true, 1.0, size=8))) < ALPHA / 3 for _ in range(1500)]
    assert abs(float(np.mean(found)) - POWER) < 0.035
