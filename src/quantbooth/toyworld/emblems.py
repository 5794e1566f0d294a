"""The emblems: small marks on a body that no caption ever names."""

from functools import cache
from math import cos, pi, sin

from quantbooth.toyworld.geometry import Polygon, arc, hoop


@cache
def emblem(name: str) -> tuple[Polygon, ...]:
    """The polygons of an emblem, around the origin, within a circle of diameter 1.

    Raises:
        KeyError: there is no such emblem.
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
