"""Comparisons made at once: which there are, and that many of them settle less than one would."""

from collections.abc import Callable

import pytest

from quantbooth.reporting.columns import score_named
from quantbooth.reporting.inference import all_differences, difference, pairs
from quantbooth.reporting.results import Result
from quantbooth.reporting.statistics import paired_p, smallest_seen
from quantbooth.reporting.study import Method, Study
from quantbooth.reporting.summary import headline

Make = Callable[..., Result]
SUBJECTS = ("mug", "duck", "fish", "car", "boot", "house")
WAVERING = (0.001, 0.012, 0.022, 0.016, 0.001, 0.020)
"""Differences of p = 0.024: settled alone, not among four."""
SCORE = score_named("local_clip_i")


def _wavering(make: Make, methods: int) -> Study:
    results = [make("baseline", subject, local_clip_i=0.5) for subject in SUBJECTS]
    for method in range(methods):
        results += [
            make(f"m{method}", subject, local_clip_i=0.5 + apart)
            for subject, apart in zip(SUBJECTS, WAVERING, strict=True)
        ]
    return Study(tuple(results))


def test_one_difference_is_settled_and_the_same_among_four_is_not(make: Make) -> None:
    assert paired_p(WAVERING) == pytest.approx(0.0240, abs=5e-4)
    (alone,) = all_differences(_wavering(make, 1), SCORE).values()
    assert alone.sign == 1 and alone.p == pytest.approx(paired_p(WAVERING))
    among = list(all_differences(_wavering(make, 4), SCORE).values())
    assert len(among) == 4 and [one.sign for one in among] == [0] * 4
    assert all(one.p == pytest.approx(4 * paired_p(WAVERING)) for one in among)
    assert all(one.interval is not None and one.interval.excludes_zero() for one in among)


def test_the_headline_claims_no_more_than_the_table(make: Make) -> None:
    assert "resembles the subject more" in headline(_wavering(make, 1))
    many = _wavering(make, 4)
    assert not any(f"m{k}" in headline(many) for k in range(4)) and "baseline" in headline(many)
    uncorrected = difference(many, (Method("m0", "w4"), 400), (Method("baseline", "w4"), 400), SCORE)
    assert uncorrected is not None and uncorrected.sign == 1


def test_the_smallest_that_would_be_seen_is_that_of_so_many(make: Make) -> None:
    (alone,) = all_differences(_wavering(make, 1), SCORE).values()
    assert alone.seen_from == pytest.approx(smallest_seen(WAVERING, 1))
    among = all_differences(_wavering(make, 4), SCORE).values()
    assert [one.seen_from for one in among] == pytest.approx(4 * [smallest_seen(WAVERING, 4)])


def test_without_baseline_and_float_the_first_method_is_the_measure(make: Make) -> None:
    study = Study(tuple(make(method, subject) for method in ("s1", "s2", "tas") for subject in SUBJECTS[:2]))
    told = [(one[0].name, other[0].name) for one, other in pairs(study)]
    assert told == [("s2", "s1"), ("tas", "s1")]


def test_an_unfinished_baseline_is_no_measure(make: Make) -> None:
    results = [make(method, subject) for method in ("s1", "s2") for subject in SUBJECTS[:2]]
    study = Study((make("baseline", "mug"), *results))
    assert [(one[0].name, other[0].name) for one, other in pairs(study)] == [("s2", "s1")]


def test_one_subject_is_not_tested(four: Study) -> None:
    for one in all_differences(four, SCORE).values():
        assert one.interval is None and one.p is None and one.seen_from is None
