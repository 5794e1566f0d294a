"""Two scores at once: which points no other beats at both, and how much area they dominate together."""

from collections.abc import Sequence

__all__ = ["dominated_area", "pareto_front"]

Point = tuple[float, float]


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Places of the points that none is at least as good as at both and better at one; x rises along them, y falls.

    Of equal points the first is told.
    """
    front: list[int] = []
    highest = float("-inf")
    for k in sorted(range(len(points)), key=lambda k: (-points[k][0], -points[k][1], k)):
        if points[k][1] > highest:
            front.append(k)
            highest = points[k][1]
    return front[::-1]


def dominated_area(points: Sequence[Point], reference: Point = (0.0, 0.0)) -> float:
    """Area of the union of the rectangles from `reference` to each point: the hypervolume of two scores.

    A point that is not above the reference at both scores dominates nothing.
    """
    above = [point for point in points if point[0] > reference[0] and point[1] > reference[1]]
    area, left = 0.0, reference[0]
    for x, y in (above[k] for k in pareto_front(above)):
        area += (x - left) * (y - reference[1])
        left = x
    return area
