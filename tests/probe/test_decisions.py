"""When pictures are decided: falling curves, crossings where they must be, intervals that hold the truth."""

import warnings

import numpy as np
import pytest

from quantbooth.probe.decisions import borders, decided

SWITCHES = np.arange(0, 1001, 50)


def step_answers(decided_at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair i keeps the first sentence's attribute when swapped at t <= decided_at[i]."""
    first = SWITCHES[None] <= decided_at[:, None]
    return first, ~first


def test_decided_is_the_share_of_the_first_among_both() -> None:
    first = np.array([[True, True, False], [True, False, False], [False, False, False]])
    second = np.array([[False, False, True], [False, True, True], [False, False, True]])
    assert decided(first, second) == pytest.approx([1.0, 0.5, 0.0])


def test_a_curve_never_rises_with_t() -> None:
    rng = np.random.default_rng(0)
    first = rng.random((40, 21)) < np.linspace(0.9, 0.1, 21)
    curve = decided(first, ~first)
    assert (np.diff(curve) <= 1e-12).all()
    assert curve.mean() == pytest.approx(first.mean(), abs=1e-9)


def test_a_swap_after_which_no_picture_is_either_has_no_weight() -> None:
    first = np.array([[True, False, False]] * 4)
    second = np.array([[False, False, True]] * 4)
    curve = decided(first, second)
    assert (curve[0], curve[2]) == (1.0, 0.0)
    assert np.isnan(decided(np.zeros((2, 3), bool), np.zeros((2, 3), bool))).all()


def test_borders_enclose_where_pairs_are_decided() -> None:
    """Pairs decided evenly over [200, 700): d(t) has made 5 % of its fall at 225 and 95 % at 675."""
    decided_at = np.linspace(200, 700, 200)
    answers = {"class": step_answers(decided_at), "context": step_answers(decided_at[::-1])}
    lower, upper = borders(answers, SWITCHES, seed=0)
    assert lower.t == pytest.approx(225, abs=15)
    assert upper.t == pytest.approx(675, abs=15)
    for border in (lower, upper):
        assert border.low <= border.t <= border.high
        assert border.high - border.low < 120
    assert borders(answers, SWITCHES, seed=0) == (lower, upper)


def test_a_base_that_follows_no_prompt_decides_nothing_and_warns_of_nothing() -> None:
    never = np.zeros((3, 3), bool)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for answers in ({"a": (never, never)}, {"a": (never, ~never)}, {"a": (never, never), "b": (~never, never)}):
            assert np.isnan([(border.t, border.low, border.high) for border in borders(answers, np.arange(3), 0)]).all()
