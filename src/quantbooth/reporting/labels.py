"""Where to put a label beside its point so that it hides no line, no point and no other label."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

__all__ = ["Box", "place"]

Point = tuple[float, float]
DIRECTIONS = tuple(math.radians(angle) for angle in (180, 0, 150, 210, 30, 330, 90, 270, 120, 240, 60, 300))
DISTANCES = (7.0, 12.0, 20.0, 30.0)
STRANGE = 9.0


@dataclass(frozen=True)
class Box:
    """A rectangle in points, y upwards."""

    left: float
    bottom: float
    right: float
    top: float

    def holds(self, points: np.ndarray, margin: float = 2.0) -> int:
        """How many of the points [n, 2] lie inside, or within the margin."""
        x, y = points[:, 0], points[:, 1]
        inside = (x > self.left - margin) & (x < self.right + margin)
        return int((inside & (y > self.bottom - margin) & (y < self.top + margin)).sum())

    def overlap(self, other: "Box") -> float:
        """Common area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0.0) * max(height, 0.0)

    def nearest(self, point: Point) -> Point:
        """The point of the rectangle that lies nearest."""
        return (min(max(point[0], self.left), self.right), min(max(point[1], self.bottom), self.top))

    def beyond(self, other: "Box") -> float:
        """How far this sticks out of the other, summed over sides."""
        return (
            max(other.left - self.left, 0.0)
            + max(self.right - other.right, 0.0)
            + max(other.bottom - self.bottom, 0.0)
            + max(self.top - other.top, 0.0)
        )


def place(
    anchors: Sequence[Point],
    sizes: Sequence[tuple[float, float]],
    lines: Sequence[Sequence[Point]],
    faint: Sequence[Sequence[Point]],
    frame: Box,
) -> list[Box]:
    """One box (width, height given) for each anchor, widest first, the cheapest of several directions and distances.

    Crossing a faint line costs less; lying beside a stranger's anchor costs more, since it would name that.
    """
    drawn = np.array(
        [p for line in lines for p in _sampled(line, 3)] + [p for line in faint for p in _sampled(line, 9)]
    )
    placed: dict[int, Box] = {}
    for k in sorted(range(len(anchors)), key=lambda k: -sizes[k][0]):
        anchor, size = anchors[k], sizes[k]
        strangers = np.array([other for j, other in enumerate(anchors) if j != k]).reshape(-1, 2)
        options = [_box(anchor, size, angle, far) for far in DISTANCES for angle in DIRECTIONS]
        costs = [
            box.holds(drawn.reshape(-1, 2))
            + 6 * box.holds(strangers, STRANGE)
            + _crowding(box, placed.values(), frame)
            + rank / 8
            for rank, box in enumerate(options)
        ]
        placed[k] = options[int(np.argmin(costs))]
    return [placed[k] for k in range(len(anchors))]


def _crowding(box: Box, placed: Iterable[Box], frame: Box) -> float:
    return sum(box.overlap(other) for other in placed) + 10 * box.beyond(frame)


def _box(anchor: Point, size: tuple[float, float], angle: float, far: float) -> Box:
    """The box whose side or corner facing the anchor lies `far` from it in this direction."""
    width, height = size
    x = anchor[0] + far * math.cos(angle) + width / 2 * _reach(math.cos(angle))
    y = anchor[1] + far * math.sin(angle) + height / 2 * _reach(math.sin(angle))
    return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _reach(component: float) -> float:
    """-1, 0 or 1: on which side of the anchor the box's middle lies."""
    return 0.0 if abs(component) < 0.2 else math.copysign(1.0, component)


def _sampled(line: Sequence[Point], spacing: float) -> list[Point]:
    """Points along a polyline."""
    found: list[Point] = []
    for (x0, y0), (x1, y1) in pairwise(line):
        count = max(int(math.hypot(x1 - x0, y1 - y0) / spacing), 1)
        found += [(x0 + (x1 - x0) * k / count, y0 + (y1 - y0) * k / count) for k in range(count + 1)]
    return found
