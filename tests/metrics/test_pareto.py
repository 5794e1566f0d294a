"""Fronts and dominated areas against drawings on squared paper."""

import itertools

import numpy as np
import pytest

from quantbooth.metrics.pareto import dominated_area, front


def test_the_front_is_what_nothing_exceeds() -> None:
    points = [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0), (1.0, 1.0), (2.0, 1.5), (3.0, 1.0)]
    assert front(points) == [True, True, True, False, False, True]
    assert front([(1.0, 1.0), (1.0, 2.0)]) == [False, True]
    assert front([]) == []


def test_areas_worked_out_by_hand() -> None:
    assert dominated_area([(2.0, 3.0)], (0.0, 0.0)) == 6.0
    assert dominated_area([(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)], (0.0, 0.0)) == 6.0
    assert dominated_area([(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)], (1.0, 1.0)) == 1.0
    assert dominated_area([(2.0, 2.0), (1.0, 1.0), (2.0, 1.0)], (0.0, 0.0)) == 4.0
    assert dominated_area([(0.5, 9.0), (9.0, 0.5)], (1.0, 1.0)) == 0.0
    with pytest.raises(ValueError, match="there must be a point at least"):
        dominated_area([], (0.0, 0.0))


def test_the_area_is_that_of_counted_squares() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = [(float(x), float(y)) for x, y in rng.integers(0, 12, (6, 2))]
        squares = sum(
            any(x + 1 <= px and y + 1 <= py for px, py in points)
            for x, y in itertools.product(range(2, 12), range(3, 12))
        )
        assert dominated_area(points, (2.0, 3.0)) == squares
