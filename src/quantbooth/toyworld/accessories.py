"""The accessories: a hat or a bow on top of an object, a scarf around it."""

from quantbooth.toyworld.geometry import Polygon, box, ellipse, rounded, scaled
from quantbooth.toyworld.palette import PAINT, PAPER, RGB, mixed
from quantbooth.toyworld.shapes import Shape

Piece = tuple[Polygon, RGB]
RAINBOW = ("red", "orange", "yellow", "green", "blue", "purple")


def accessory(name: str, shape: Shape) -> tuple[Piece, ...]:
    """The coloured polygons of an accessory where this shape wears it, in drawing order.

    Raises:
        KeyError: there is no such accessory.
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
