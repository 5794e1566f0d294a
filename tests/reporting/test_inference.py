"""What is marked best, and which difference counts as one."""

from collections.abc import Callable

import pytest

from quantbooth.reporting.columns import score_named
from quantbooth.reporting.inference import best, difference
from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Method, Study

Make = Callable[..., Result]


CLIP_T = score_named("clip_t")
SUBJECTS = ("mug", "duck", "fish", "car", "house", "boot")


def _study(make: Make, one: list[float], other: list[float]) -> Study:
    values = [("s1", one), ("s2", other)]
    return Study(tuple(make(m, s, clip_t=v) for m, of in values for s, v in zip(SUBJECTS, of, strict=True)))


def test_one_subject_marks_the_highest_as_written_ties_included(make: Make) -> None:
    study = Study((make("s1", clip_t=0.3004), make("s2", clip_t=0.3001), make("float", clip_t=0.2)))
    assert {method.name for method in best(study, CLIP_T)} == {"s1", "s2"}
    equal = Study((make("s1", clip_t=0.3004), make("s2", clip_t=0.3001)))
    assert best(equal, CLIP_T) == ()


def test_the_base_and_incomplete_methods_do_not_compete(make: Make) -> None:
    study = Study((make("base", step=0, clip_t=0.9), make("s1", clip_t=0.3), make("s2", clip_t=0.2)))
    assert best(study, CLIP_T) == (Method("s1", "w4"),)
    partial = Study((make("s1"), make("s1", "duck"), make("s2", clip_t=0.9), make("float"), make("float", "duck")))
    assert best(partial, CLIP_T) == ()
    assert difference(partial, (Method("s2", "w4"), 400), (Method("s1", "w4"), 400), CLIP_T) is None


def test_several_subjects_mark_only_a_paired_difference_clear_of_zero(make: Make) -> None:
    steady = [0.31, 0.35, 0.25, 0.29, 0.41, 0.22]
    below = [value - shift for value, shift in zip(steady, (0.01, 0.02, 0.01, 0.015, 0.01, 0.02), strict=True)]
    assert best(_study(make, steady, below), CLIP_T) == (Method("s1", "w4"),)
    mixed = [value - shift for value, shift in zip(steady, (0.05, -0.04, 0.03, -0.02, 0.01, -0.01), strict=True)]
    assert best(_study(make, steady, mixed), CLIP_T) == ()


def test_difference_is_paired_and_has_a_sign_only_when_settled(make: Make) -> None:
    study = _study(make, [0.31, 0.35, 0.25, 0.29, 0.41, 0.22], [0.30, 0.33, 0.24, 0.275, 0.40, 0.20])
    found = difference(study, (Method("s1", "w4"), 400), (Method("s2", "w4"), 400), CLIP_T)
    assert found is not None and found.sign == 1
    assert found.mean == pytest.approx((0.01 + 0.02 + 0.01 + 0.015 + 0.01 + 0.02) / 6)
    assert found.interval is not None and found.interval.half < found.mean
    turned = difference(study, (Method("s2", "w4"), 400), (Method("s1", "w4"), 400), CLIP_T)
    assert turned is not None and turned.sign == -1


def test_what_rounds_to_zero_has_no_sign(make: Make) -> None:
    study = Study((make("s1", clip_t=0.3002), make("s2", clip_t=0.3)))
    found = difference(study, (Method("s1", "w4"), 400), (Method("s2", "w4"), 400), CLIP_T)
    assert found is not None and found.sign == 0 and found.interval is None


def test_one_subject_settles_nothing(four: Study) -> None:
    found = difference(four, (Method("s1", "w4"), 400), (Method("baseline", "w4"), 400), CLIP_T)
    assert found is not None and found.mean == pytest.approx(0.03) and not found.settled and found.sign == 0
