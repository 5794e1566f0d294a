"""Details of an object as polygons: the second colour of its pattern or layout, its emblem, its accessory.

No caption names emblems. Accessories are a hat or a bow on top of an object, or a scarf around it.
"""

from functools import cache
from math import cos, pi, sin

from quantbooth_toyworld.paint import PAINT, PAPER, RGB, Polygon, arc, box, ellipse, hoop, mixed, rounded, scaled
from quantbooth_toyworld.shapes import Shape

STRIPE = 1 / 5
CHECK = 0.29
DOT = 0.12


@cache
def second_colour(pattern: str) -> tuple[Polygon, ...]:
    """Return the parts of the unit square (and a margin around it) that a pattern paints in the second colour.

    Raises:
        KeyError: when there is no such pattern.
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


@cache
def emblem(name: str) -> tuple[Polygon, ...]:
    """Return the polygons of an emblem, around the origin, within a circle of diameter 1.

    Raises:
        KeyError: when there is no such emblem.
    """
    return {
        "star": (_star(),),
        "heart": (_heart(),),
        "moon": (arc(0.0, 0.0, 0.5, 0.5, 50, 310, 20) + arc(0.17, 0.0, 0.385, 0.385, 290, 70, 16),),
        "cross": (_cross(0.19),),
        "bolt": (((0.16, -0.5), (-0.34, 0.10), (-0.04, 0.10), (-0.18, 0.5), (0.34, -0.12), (0.04, -0.12)),),
        "ring": (hoop(0.0, 0.0, 0.5, 0.5, 0.21, 0, 360),),
    }[name]


def _star() -> Polygon:
    radii = (0.54, 0.235)
    angles = ((2 * k - 5) * pi / 10 for k in range(10))
    return tuple((radii[k % 2] * cos(a), radii[k % 2] * sin(a) + 0.03) for k, a in enumerate(angles))


def _heart() -> Polygon:
    lobes = arc(-0.25, -0.17, 0.26, 0.27, 150, 345, 10) + arc(0.25, -0.17, 0.26, 0.27, 195, 390, 10)
    return (*lobes, (0.0, 0.5))


def _cross(arm: float) -> Polygon:
    quarter = ((arm, -0.5), (arm, -arm), (0.5, -arm))
    half = quarter + tuple((x, -y) for x, y in reversed(quarter))
    return half + tuple((-x, y) for x, y in reversed(half))


Piece = tuple[Polygon, RGB]
RAINBOW = ("red", "orange", "yellow", "green", "blue", "purple")


def accessory(name: str, shape: Shape) -> tuple[Piece, ...]:
    """Return the coloured polygons of an accessory, placed on this shape, in drawing order.

    Raises:
        KeyError: when there is no such accessory.
    """
    return {"a red hat": _hat, "a rainbow scarf": _scarf, "a green bow": _bow}[name](shape)


def _hat(shape: Shape) -> tuple[Piece, ...]:
    x, y = shape.hat
    red = PAINT["red"]
    return (
        (rounded(x - 0.15, y - 0.22, x + 0.15, y, 0.05), red),
        (box(x - 0.15, y - 0.09, x + 0.15, y - 0.03), PAPER),
        (rounded(x - 0.26, y - 0.04, x + 0.26, y + 0.05, 0.04), red),
    )


def _bow(shape: Shape) -> tuple[Piece, ...]:
    x, y = shape.hat
    green = PAINT["green"]
    wings = tuple(
        ((x, y - 0.05), (x + side * 0.25, y - 0.19), (x + side * 0.27, y + 0.07), (x, y - 0.01)) for side in (-1, 1)
    )
    return (*((wing, green) for wing in wings), (ellipse(x, y - 0.04, 0.075, 0.08, 14), mixed(green, PAPER, 0.45)))


def _scarf(shape: Shape) -> tuple[Piece, ...]:
    x, y, length, angle = shape.scarf
    step, thick, n = length / len(RAINBOW), 0.16, len(RAINBOW)
    left = -length / 2
    around = [box(left + i * step, -thick / 2, left + (i + 1) * step, thick / 2) for i in range(n)]
    end = [box(left, thick / 2 + i * 0.09, left + 0.14, thick / 2 + (i + 1) * 0.09) for i in range(2)]
    colours = (*RAINBOW, "yellow", "blue")
    return tuple((scaled(p, x, y, 1.0, angle), PAINT[c]) for p, c in zip(around + end, colours, strict=True))
