"""Pareto fronts and dominated areas: drawn on paper, and against a slow count of small squares."""

import numpy as np
import pytest

from quantbooth.reporting.areas import dominated_area, pareto_front


def test_front_by_hand_runs_from_left_to_right() -> None:
    points = [(3.0, 1.0), (1.0, 3.0), (2.0, 2.0), (1.5, 1.5), (3.0, 0.5), (0.5, 3.0)]
    assert pareto_front(points) == [1, 2, 0]
    assert pareto_front([(1.0, 1.0), (1.0, 1.0)]) == [0]
    assert pareto_front([]) == []


def test_area_by_hand() -> None:
    assert dominated_area([(3.0, 1.0), (1.0, 3.0), (2.0, 2.0)]) == pytest.approx(3 + 2 + 1)
    assert dominated_area([(2.0, 3.0)]) == pytest.approx(6.0)
    assert dominated_area([(2.0, 3.0), (1.0, 1.0)]) == pytest.approx(6.0)
    assert dominated_area([(2.0, 3.0), (3.0, 2.0)], reference=(1.0, 1.0)) == pytest.approx(1 * 2 + 1 * 1)


def test_points_below_the_reference_dominate_nothing() -> None:
    assert dominated_area([]) == 0.0
    assert dominated_area([(-1.0, 5.0), (5.0, -1.0), (0.0, 2.0)]) == 0.0
    assert dominated_area([(2.0, 3.0), (-1.0, 9.0)]) == pytest.approx(6.0)


def test_area_equals_a_count_of_small_squares_and_never_falls_with_more_points() -> None:
    rng = np.random.default_rng(0)
    points = [(float(x), float(y)) for x, y in rng.integers(1, 41, size=(12, 2))]
    corners = np.stack(np.meshgrid(np.arange(1, 41), np.arange(1, 41)), axis=-1).reshape(-1, 2)
    covered = [any(cx <= x and cy <= y for x, y in points) for cx, cy in corners]
    assert dominated_area(points) == pytest.approx(sum(covered))
    areas = [dominated_area(points[:k]) for k in range(len(points) + 1)]
    assert areas == sorted(areas)
    front = [points[k] for k in pareto_front(points)]
    assert dominated_area(front) == pytest.approx(dominated_area(points))


def test_front_equals_the_plain_rule() -> None:
    rng = np.random.default_rng(1)
    points = [(float(x), float(y)) for x, y in rng.random((40, 2))]
    plain = {k for k, (x, y) in enumerate(points) if not any(a >= x and b >= y and (a > x or b > y) for a, b in points)}
    assert set(pareto_front(points)) == plain
