"""The trade-off plot: prompt fidelity across, subject fidelity up, one labelled line per method as it is tuned.

Where to put a label beside its point so that it hides no line, no point and no other label.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from quantbooth.reporting.areas import Curve, curves, front
from quantbooth.reporting.claims import Snapshot
from quantbooth.reporting.columns import Score, score_named
from quantbooth.reporting.results import Result
from quantbooth.reporting.statistics import Interval
from quantbooth.reporting.study import Study
from quantbooth.reporting.style import FAINT, GROUND, INK, MUTED, Look, look, svg
from quantbooth.runtime.errors import UserError

__all__ = ["Box", "oracle_tradeoff", "place", "tradeoff"]

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


RC = {"svg.fonttype": "none", "svg.hashsalt": "quantbooth", "font.family": "DejaVu Sans", "font.size": 9}
INCHES = (4.7, 4.0)
DASHES = ("-", "--", ":", "-.")
ROUND = [1, 2, 2.5, 5, 10]
LETTER = 5.7
LINE = 11.0
FAR = 13.0
"""Distances in points."""


def tradeoff(results: Sequence[Result], x: str = "clip_t", y: str = "local_clip_i") -> str:
    """The plot of two scores as an SVG string; it needs a complete snapshot of at least one method.

    Raises:
        UserError: the results do not compare, or no method is complete.
    """
    study = Study(tuple(results))
    across, up = score_named(x), score_named(y)
    lines = curves(study, x, y)
    if not lines:
        raise UserError("a trade-off plot needs one method with all subjects and seeds, got none; finish the sweep")
    methods = tuple(dict.fromkeys(arm.method for arm in study.arms))
    looks = [look(line.arm.method, methods) for line in lines]
    with mpl.rc_context(RC):
        figure = Figure(figsize=INCHES, dpi=72)
        axes = figure.add_axes((0.14, 0.13, 0.825, 0.85))
        _frame(axes, lines, across, up)
        _edge(axes, lines)
        for line, style in zip(lines, looks, strict=True):
            _draw(axes, line, style, DASHES[_rank(line, lines) % len(DASHES)])
        _name(axes, lines, looks)
        tones = (INK, MUTED, FAINT, GROUND, *(style.tone for style in looks))
        name = f"plot-{x}-{y}".replace("_", "-")
        return svg(figure, name, f"{up.title} against {across.title}", _told(lines, across, up), tones)


def oracle_tradeoff(results: Sequence[Result]) -> str | None:
    """The same with the toy world's oracle as the judge; None where there is no oracle."""
    study = Study(tuple(results))
    if not {"oracle_prompt", "oracle_subject"} <= {score.key for score in study.scores}:
        return None
    if not curves(study, "oracle_prompt", "oracle_subject"):
        return None
    return tradeoff(results, "oracle_prompt", "oracle_subject")


def _rank(line: Curve, lines: Sequence[Curve]) -> int:
    """Which of the arms of the same method this is: they share a colour and differ in dashes."""
    return [other.arm for other in lines if other.arm.method == line.arm.method].index(line.arm)


def _frame(axes: Axes, lines: Sequence[Curve], across: Score, up: Score) -> None:
    for low_high, values, pad in (
        (axes.set_xlim, [value for line in lines for value in _extent(line, 0)], 0.16),
        (axes.set_ylim, [value for line in lines for value in _extent(line, 1)], 0.1),
    ):
        low, high = min(values), max(values)
        room = max((high - low) * pad, 0.004)
        low_high(low - room, high + room)
    axes.set_xlabel(f"{across.title}: {across.axis} →", color=MUTED.light, labelpad=7)
    axes.set_ylabel(f"{up.title}: {up.axis} →", color=MUTED.light, labelpad=7)
    axes.grid(color=FAINT.light, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=MUTED.light, pad=5)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=ROUND))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
    for spine in axes.spines.values():
        spine.set_visible(False)


def _edge(axes: Axes, lines: Sequence[Curve]) -> None:
    """The Pareto front of all snapshots, as the stairs under which everything is dominated."""
    at = {snapshot: (line.x[k], line.y[k]) for line in lines for k, snapshot in enumerate(line.snapshots)}
    x, y = zip(*(at[snapshot] for snapshot in front(tuple(lines))), strict=True)
    (left, _), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    axes.step([left, *x, x[-1]], [y[0], *y, bottom], where="pre", color=MUTED.light, linewidth=0.8, ls=(0, (1, 2.5)))


def _extent(line: Curve, axis: int) -> list[float]:
    span = [line.spans[axis].low, line.spans[axis].high] if line.spans and not line.arm.untuned else []
    return [*(line.x, line.y)[axis], *span]


def _draw(axes: Axes, line: Curve, style: Look, dashes: str) -> None:
    colour = style.tone.light
    x, y = line.x[-1], line.y[-1]
    if line.arm.untuned:
        axes.plot([x], [y], "o", ms=9, mfc=GROUND.light, mec=colour, mew=1.8, zorder=5)
        return
    if line.spans:
        across, up = line.spans
        axes.plot([across.low, across.high], [y, y], color=colour, linewidth=0.9, alpha=0.45, zorder=2)
        axes.plot([x, x], [up.low, up.high], color=colour, linewidth=0.9, alpha=0.45, zorder=2)
    axes.plot(line.x, line.y, dashes, color=colour, linewidth=1.9, solid_capstyle="round", zorder=3)
    inner = [k for k, step in enumerate(line.steps[:-1]) if step > 0]
    axes.plot([line.x[k] for k in inner], [line.y[k] for k in inner], "o", ms=4, mec=colour, mfc=colour, zorder=4)
    axes.plot([x], [y], style.marker, ms=9, mfc=colour, mec=GROUND.light, mew=1.2, zorder=6)


def _name(axes: Axes, lines: Sequence[Curve], looks: Sequence[Look]) -> None:
    """Labels at the lines' ends."""
    paths = [_points(axes, c.x, c.y) for c in lines]
    bars = [path for c in lines if c.spans for path in _bars(axes, c, c.spans)]
    box = axes.get_window_extent()
    frame = Box(box.x0, box.y0, box.x1, box.y1)
    sizes = [(LETTER * len(line.label) + 2, LINE) for line in lines]
    boxes = place([path[-1] for path in paths], sizes, paths, bars, frame)
    for line, style, spot in zip(lines, looks, boxes, strict=True):
        middle = ((spot.left + spot.right) / 2, (spot.bottom + spot.top) / 2)
        x, y = axes.transData.inverted().transform(middle)
        axes.text(x, y, line.label, color=style.tone.light, weight="bold", ha="center", va="center", zorder=7)
        _lead(axes, spot, _points(axes, line.x[-1:], line.y[-1:])[0], style)


def _lead(axes: Axes, spot: Box, end: tuple[float, float], style: Look) -> None:
    """A hair line from a label that could not stand beside its point."""
    near = spot.nearest(end)
    if math.dist(near, end) > FAR:
        x, y = zip(*axes.transData.inverted().transform([near, end]), strict=True)
        axes.plot(x, y, color=style.tone.light, linewidth=0.6, zorder=1)


def _points(axes: Axes, x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    """Where these lie in the figure, in points."""
    return [(float(a), float(b)) for a, b in axes.transData.transform([*zip(x, y, strict=True)])]


def _bars(axes: Axes, line: Curve, spans: tuple[Interval, Interval]) -> list[list[tuple[float, float]]]:
    x, y = line.x[-1], line.y[-1]
    across, up = spans
    return [_points(axes, (across.low, across.high), (y, y)), _points(axes, (x, x), (up.low, up.high))]


def _told(lines: Sequence[Curve], across: Score, up: Score) -> str:
    """The plot in words, for those who do not see it."""
    ends = [f"{c.label}: {across.unit.text(c.x[-1])} and {up.unit.text(c.y[-1])}" for c in lines]
    best = ", ".join(_at(lines, snapshot) for snapshot in front(tuple(lines)))
    return f"Where each method ends, {across.title} and {up.title}: {'; '.join(ends)}. On the Pareto front: {best}."


def _at(lines: Sequence[Curve], snapshot: Snapshot) -> str:
    """The method of a snapshot, and after how many steps."""
    arm, step = snapshot
    label = next((line.label for line in lines if line.arm == arm), "untuned base")
    return f"{label} after {step:,} steps" if step else label
