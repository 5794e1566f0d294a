"""Drawing primitives: polygons in an object's unit square (x right, y down), their placement, and colours as RGB."""

from dataclasses import dataclass
from math import cos, pi, radians, sin

Point = tuple[float, float]
Polygon = tuple[Point, ...]


@dataclass(frozen=True)
class Placement:
    """The map from the unit square to canvas pixels: p -> (centre + size R(tilt) (p - 1/2)) canvas."""

    x: float
    y: float
    size: float
    tilt: float
    canvas: int

    def __call__(self, polygon: Polygon) -> list[Point]:
        """Return the polygon in pixels of the canvas."""
        angle, scale = radians(self.tilt), self.size * self.canvas
        c, s = scale * cos(angle), scale * sin(angle)
        left = self.x * self.canvas - 0.5 * (c - s)
        top = self.y * self.canvas - 0.5 * (s + c)
        return [(left + c * u - s * v, top + s * u + c * v) for u, v in polygon]


def box(left: float, top: float, right: float, bottom: float) -> Polygon:
    """Return an upright rectangle."""
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def ellipse(x: float, y: float, rx: float, ry: float, points: int = 24) -> Polygon:
    """Return a regular polygon stretched to the two radii."""
    return arc(x, y, rx, ry, 0.0, 360.0 - 360.0 / points, points)


def arc(x: float, y: float, rx: float, ry: float, start: float, stop: float, points: int = 12) -> Polygon:
    """Return points along an elliptic arc from `start` to `stop` degrees (0 is right, 90 is down)."""
    angles = [(start + (stop - start) * i / (points - 1)) * pi / 180 for i in range(points)]
    return tuple((x + rx * cos(a), y + ry * sin(a)) for a in angles)


def hoop(x: float, y: float, rx: float, ry: float, width: float, start: float, stop: float) -> Polygon:
    """Return an elliptic arc of a given width, measured inwards."""
    outer = arc(x, y, rx, ry, start, stop, 16)
    return outer + arc(x, y, rx - width, ry - width, stop, start, 16)


def rounded(left: float, top: float, right: float, bottom: float, radius: float) -> Polygon:
    """Return a rectangle with round corners."""
    west, north, east, south = left + radius, top + radius, right - radius, bottom - radius
    corners = ((west, north, 180), (east, north, 270), (east, south, 0), (west, south, 90))
    return tuple(p for x, y, start in corners for p in arc(x, y, radius, radius, start, start + 90, 5))


def smooth(*knots: Point) -> Polygon:
    """Return a closed Catmull-Rom curve through the knots."""
    n = len(knots)
    points: list[Point] = []
    for i in range(n):
        a, b, c, d = (knots[(i + k - 1) % n] for k in range(4))
        for t in (0.0, 0.2, 0.4, 0.6, 0.8):
            points.append((_spline(a[0], b[0], c[0], d[0], t), _spline(a[1], b[1], c[1], d[1], t)))
    return tuple(points)


def scaled(polygon: Polygon, x: float, y: float, factor: float, angle: float = 0.0) -> Polygon:
    """Scale a polygon by `factor`, rotate it by `angle` degrees, and move its origin to (x, y)."""
    c, s = factor * cos(radians(angle)), factor * sin(radians(angle))
    return tuple((x + c * u - s * v, y + s * u + c * v) for u, v in polygon)


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


RGB = tuple[int, int, int]

INK: RGB = (24, 24, 30)
PAPER: RGB = (250, 250, 250)
GLASS: RGB = (190, 228, 245)
STEEL: RGB = (150, 154, 164)
BEAK: RGB = (248, 150, 30)
BARK: RGB = (88, 54, 34)

PAINT: dict[str, RGB] = {
    "red": (218, 32, 38),
    "orange": (250, 130, 14),
    "yellow": (252, 218, 34),
    "green": (34, 158, 62),
    "blue": (34, 86, 222),
    "purple": (132, 44, 172),
    "pink": (255, 136, 190),
    "white": (248, 248, 248),
    "black": (30, 30, 36),
}


def mixed(first: RGB, second: RGB, share: float) -> RGB:
    """Blend two colours: first + share (second - first), per channel, rounded."""
    r, g, b = (round(a + share * (c - a)) for a, c in zip(first, second, strict=True))
    return (r, g, b)


def luma(colour: RGB) -> float:
    """Return the perceived brightness in [0, 255] (Rec. 601)."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def outline(colour: RGB) -> RGB:
    """Return the colour of a body's outline: light for dark bodies, else a dark shade of the body's colour."""
    return (206, 206, 212) if luma(colour) < 50 else mixed(colour, INK, 0.72)


def contrasting(*grounds: RGB) -> RGB:
    """Return white or black, whichever differs more from the nearest of the grounds."""
    return max((PAPER, INK), key=lambda tone: min(abs(luma(tone) - luma(ground)) for ground in grounds))
