"""Tests of many differences: against textbook formulas, by simulation, and every refusal."""

import numpy as np
import pytest
from scipy import stats

from quantbooth.metrics.comparisons import detectable, holm, paired_p


def of(values: list[float]) -> dict[str, float]:
    return {f"subject {k}": value for k, value in enumerate(values)}


def test_holm_against_a_case_worked_out_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == pytest.approx([1.0, 1.0])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_holm_lets_no_chance_finding_through_more_often_than_promised() -> None:
    rng = np.random.default_rng(0)
    wrong = [min(holm(rng.uniform(size=12).tolist())) <= 0.05 for _ in range(2000)]
    assert 0.035 <= np.mean(wrong) <= 0.065


def test_a_paired_test_is_that_of_the_formula() -> None:
    one, other = of([1.0, 2.0, 4.0]), of([0.0, 1.5, 2.5])
    t = 1.0 / (0.5 / np.sqrt(3))
    assert paired_p(one, other) == pytest.approx(2 * stats.t.sf(t, 2))
    assert paired_p(one, other) == pytest.approx(paired_p(other, one))
    assert paired_p(one, one) == 1.0
    assert paired_p(of([1.0, 2.0]), of([0.0, 1.0])) == 0.0


def test_what_is_detectable_is_that_of_the_formula_and_is_detected_in_four_of_five_experiments() -> None:
    one, other = of([1.0, 2.0, 4.0]), of([0.0, 1.5, 2.5])
    expected = (stats.t.ppf(0.975, 2) + stats.t.ppf(0.8, 2)) * 0.5 / np.sqrt(3)
    assert detectable(one, other) == pytest.approx(expected)
    rng, subjects = np.random.default_rng(1), 20
    shift = (stats.t.ppf(0.975, subjects - 1) + stats.t.ppf(0.8, subjects - 1)) / np.sqrt(subjects)
    zero = of([0.0] * subjects)
    found = [paired_p(of(rng.normal(shift, 1, subjects).tolist()), zero) <= 0.05 for _ in range(1000)]
    assert 0.76 <= np.mean(found) <= 0.84


@pytest.mark.parametrize("other", [of([1.0]), of([1.0, 2.0, 3.0])])
def test_unpaired_subjects_are_refused(other: dict[str, float]) -> None:
    for function in (paired_p, detectable):
        with pytest.raises(ValueError, match="needs the same two or more subjects on both sides"):
            function(of([1.0, 2.0]) if len(other) > 1 else of([1.0]), other)


def test_what_is_no_p_value_is_refused() -> None:
    with pytest.raises(ValueError, match=r"p values must be in \[0, 1\], got \[0.5, 1.5\]"):
        holm([0.5, 1.5])
    with pytest.raises(ValueError, match="p values must be in"):
        holm([float("nan")])
