"""What points of two scores, the higher the better, reach together: their front, and the area they dominate.

    front  = points that no other point equals or exceeds in both scores and exceeds in one
    area   = area of the union of [r_x, x_i] x [r_y, y_i]

the hypervolume of two objectives (Zitzler & Thiele 1998): one number for a whole trade-off curve, of which no single
point has to be chosen.
"""

from collections.abc import Sequence

__all__ = ["dominated_area", "front"]

Point = tuple[float, float]


def front(points: Sequence[Point]) -> list[bool]:
    """Of each point, whether it is on the front; equal points are on it together."""
    return [not any(_dominates(other, point) for other in points) for point in points]


def dominated_area(points: Sequence[Point], reference: Point) -> float:
    """The area; points that are below the reference in one score add nothing.

    Raises:
        ValueError: when there is no point.
    """
    if not points:
        raise ValueError("there must be a point at least")
    area, height = 0.0, reference[1]
    for x, y in sorted(points, reverse=True):
        if x > reference[0] and y > height:
            area += (x - reference[0]) * (y - height)
            height = y
    return area


def _dominates(one: Point, other: Point) -> bool:
    return one[0] >= other[0] and one[1] >= other[1] and one != other
