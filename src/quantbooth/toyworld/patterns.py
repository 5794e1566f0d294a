"""Where the second colour lies on a body: one list of polygons per pattern and layout."""

from functools import cache

from quantbooth.toyworld.geometry import Polygon, box, ellipse

STRIPE = 1 / 5
CHECK = 0.29
DOT = 0.12


@cache
def second_colour(pattern: str) -> tuple[Polygon, ...]:
    """The parts of the unit square (and a margin around it) that a pattern paints in the second colour.

    Raises:
        KeyError: there is no such pattern.
    """
    return {
        "plain": (),
        "striped": tuple(box(x * STRIPE, -0.1, (x + 1) * STRIPE, 1.1) for x in range(1, 5, 2)),
        "dotted": _dots(),
        "checked": _checks(),
        "half": (box(0.5, -0.1, 1.1, 1.1),),
        "band": (box(-0.1, 0.38, 1.1, 0.72),),
        "tip": (box(-0.1, -0.1, 1.1, 0.38),),
    }[pattern]


def _dots() -> tuple[Polygon, ...]:
    step = 0.37
    return tuple(
        ellipse(0.5 + step * (column + 0.5 * (row % 2)), 0.55 + 0.9 * step * row, DOT, DOT, 16)
        for row in range(-2, 3)
        for column in range(-2, 3)
    )


def _checks() -> tuple[Polygon, ...]:
    return tuple(
        box(0.5 + CHECK * i, 0.5 + CHECK * j, 0.5 + CHECK * (i + 1), 0.5 + CHECK * (j + 1))
        for i in range(-3, 3)
        for j in range(-3, 3)
        if (i + j) % 2 == 0
    )
