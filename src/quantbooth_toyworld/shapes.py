"""The shape of each class of object, in its unit square."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from quantbooth_toyworld.paint import (
    BARK,
    BEAK,
    GLASS,
    INK,
    PAPER,
    RGB,
    STEEL,
    Point,
    Polygon,
    arc,
    box,
    ellipse,
    hoop,
    rounded,
    smooth,
)

Detail = tuple[Polygon, RGB]


@dataclass(frozen=True)
class Shape:
    """A silhouette with the positions of accessories and emblem.

    `body` has the scene's colour and pattern; `behind` and `details` have fixed colours, painted before and after it.
    `hat` is the position of a hat's brim, `scarf` its middle, length and angle in degrees, `emblem` its centre and
    diameter.
    """

    body: tuple[Polygon, ...]
    behind: tuple[Detail, ...]
    details: tuple[Detail, ...]
    hat: Point
    scarf: tuple[float, float, float, float]
    emblem: tuple[float, float, float]


@cache
def shape(class_word: str) -> Shape:
    """Return the shape of a class.

    Raises:
        KeyError: when there is no such class.
    """
    return _MAKERS[class_word]()


def _mug() -> Shape:
    handle = hoop(0.68, 0.54, 0.32, 0.29, 0.11, -92, 92)
    opening = ellipse(0.375, 0.18, 0.28, 0.055)
    return Shape(
        body=(handle, rounded(0.04, 0.12, 0.71, 0.95, 0.09)),
        behind=(),
        details=((opening, INK),),
        hat=(0.375, 0.17),
        scarf=(0.375, 0.32, 0.71, 0),
        emblem=(0.385, 0.63, 0.42),
    )


def _duck() -> Shape:
    trunk = smooth(
        (0.16, 0.58),
        (0.36, 0.42),
        (0.62, 0.46),
        (0.84, 0.46),
        (1.0, 0.30),
        (0.98, 0.64),
        (0.82, 0.88),
        (0.52, 0.95),
        (0.25, 0.86),
    )
    neck = ((0.14, 0.30), (0.54, 0.30), (0.62, 0.60), (0.18, 0.62))
    bill = smooth((0.0, 0.33), (0.16, 0.23), (0.20, 0.33), (0.15, 0.42))
    return Shape(
        body=(trunk, neck, ellipse(0.34, 0.25, 0.215, 0.21)),
        behind=((bill, BEAK),),
        details=((ellipse(0.29, 0.22, 0.075, 0.075, 14), PAPER), (ellipse(0.28, 0.225, 0.042, 0.042, 12), INK)),
        hat=(0.36, 0.13),
        scarf=(0.36, 0.46, 0.46, 0),
        emblem=(0.57, 0.69, 0.40),
    )


def _fish() -> Shape:
    trunk = smooth(
        (0.0, 0.54), (0.16, 0.29), (0.42, 0.18), (0.64, 0.30), (0.78, 0.50), (0.64, 0.76), (0.42, 0.88), (0.16, 0.78)
    )
    tail = ((0.66, 0.53), (1.0, 0.18), (0.92, 0.53), (1.0, 0.88))
    fin = ((0.26, 0.28), (0.46, 0.04), (0.64, 0.08), (0.62, 0.34))
    return Shape(
        body=(tail, fin, trunk),
        behind=(),
        details=(
            (ellipse(0.16, 0.44, 0.078, 0.078, 14), PAPER),
            (ellipse(0.15, 0.445, 0.044, 0.044, 12), INK),
            (((0.0, 0.60), (0.13, 0.60), (0.12, 0.645), (0.02, 0.645)), INK),
        ),
        hat=(0.36, 0.19),
        scarf=(0.735, 0.53, 0.40, -90),
        emblem=(0.46, 0.55, 0.42),
    )


def _car() -> Shape:
    cabin = ((0.15, 0.46), (0.28, 0.13), (0.66, 0.13), (0.84, 0.46))
    trunk = smooth(
        (0.0, 0.60),
        (0.06, 0.42),
        (0.30, 0.39),
        (0.76, 0.39),
        (0.97, 0.46),
        (1.0, 0.66),
        (0.97, 0.81),
        (0.5, 0.83),
        (0.03, 0.81),
    )
    wheels = tuple((ellipse(x, 0.81, r, r, 18), c) for x in (0.20, 0.80) for r, c in ((0.145, INK), (0.06, STEEL)))
    return Shape(
        body=(cabin, trunk),
        behind=(),
        details=(
            (((0.25, 0.37), (0.33, 0.19), (0.46, 0.19), (0.46, 0.37)), GLASS),
            (((0.52, 0.37), (0.52, 0.19), (0.64, 0.19), (0.75, 0.37)), GLASS),
            (ellipse(0.955, 0.56, 0.04, 0.055, 12), PAPER),
            *wheels,
        ),
        hat=(0.47, 0.17),
        scarf=(0.50, 0.40, 0.92, 0),
        emblem=(0.50, 0.665, 0.37),
    )


def _house() -> Shape:
    gable = ((0.13, 0.96), (0.13, 0.40), (0.5, 0.08), (0.87, 0.40), (0.87, 0.96))
    roof = ((0.5, 0.02), (1.0, 0.44), (0.93, 0.53), (0.5, 0.17), (0.07, 0.53), (0.0, 0.44))
    return Shape(
        body=(gable,),
        behind=((box(0.70, 0.06, 0.83, 0.34), BARK),),
        details=(
            (roof, BARK),
            (box(0.42, 0.75, 0.60, 0.96), BARK),
            (box(0.21, 0.70, 0.34, 0.84), GLASS),
            (box(0.68, 0.70, 0.81, 0.84), GLASS),
        ),
        hat=(0.5, 0.15),
        scarf=(0.5, 0.73, 0.80, 0),
        emblem=(0.5, 0.48, 0.38),
    )


def _backpack() -> Shape:
    top, corner = arc(0.5, 0.47, 0.33, 0.30, 180, 360, 16), arc(0.74, 0.87, 0.09, 0.09, 0, 90, 5)
    sack = (*top, *corner, *((1 - x, y) for x, y in reversed(corner)))
    pouches = (rounded(0.05, 0.60, 0.24, 0.92, 0.06), rounded(0.76, 0.60, 0.95, 0.92, 0.06))
    loop = hoop(0.5, 0.18, 0.18, 0.19, 0.055, 180, 360)
    pocket = (box(0.27, 0.70, 0.73, 0.745), box(0.27, 0.70, 0.31, 0.96), box(0.69, 0.70, 0.73, 0.96))
    return Shape(
        body=(*pouches, sack),
        behind=((loop, INK),),
        details=(*((line, INK) for line in pocket), (rounded(0.44, 0.69, 0.56, 0.83, 0.03), STEEL)),
        hat=(0.5, 0.19),
        scarf=(0.5, 0.29, 0.66, 0),
        emblem=(0.5, 0.50, 0.38),
    )


def _boot() -> Shape:
    leather = (
        (0.14, 0.05),
        (0.62, 0.05),
        (0.62, 0.44),
        *arc(0.74, 0.70, 0.24, 0.22, 270, 360, 8),
        (0.98, 0.86),
        (0.14, 0.86),
    )
    laces = tuple((box(0.44, y, 0.66, y + 0.05), PAPER) for y in (0.24, 0.385))
    return Shape(
        body=(leather,),
        behind=(),
        details=(
            (rounded(0.10, 0.84, 1.0, 0.92, 0.03), INK),
            (box(0.12, 0.88, 0.40, 0.97), INK),
            (box(0.12, 0.04, 0.64, 0.12), PAPER),
            *laces,
        ),
        hat=(0.38, 0.09),
        scarf=(0.38, 0.21, 0.56, 0),
        emblem=(0.38, 0.62, 0.40),
    )


def _teapot() -> Shape:
    spout = smooth((0.22, 0.52), (0.13, 0.42), (0.10, 0.30), (0.0, 0.26), (0.0, 0.40), (0.06, 0.60), (0.22, 0.80))
    handle = hoop(0.72, 0.57, 0.28, 0.27, 0.10, -110, 110)
    foot = box(0.28, 0.86, 0.62, 0.96)
    return Shape(
        body=(spout, handle, foot, ellipse(0.45, 0.60, 0.33, 0.33), ellipse(0.45, 0.20, 0.085, 0.085, 14)),
        behind=(),
        details=((box(0.22, 0.37, 0.68, 0.41), INK),),
        hat=(0.45, 0.23),
        scarf=(0.45, 0.38, 0.56, 0),
        emblem=(0.45, 0.66, 0.42),
    )


_MAKERS: dict[str, Callable[[], Shape]] = {
    "mug": _mug,
    "duck": _duck,
    "fish": _fish,
    "car": _car,
    "house": _house,
    "backpack": _backpack,
    "boot": _boot,
    "teapot": _teapot,
}
