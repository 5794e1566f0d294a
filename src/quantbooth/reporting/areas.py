"""Curves of two scores over the training, which snapshots no other beats, and the area that each method dominates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from quantbooth.reporting.columns import NOTHING, Score, Unit
from quantbooth.reporting.differences import difference_cell
from quantbooth.reporting.inference import Difference, Pair, corrected, interval, paired_comparison, pairs
from quantbooth.reporting.statistics import Interval
from quantbooth.reporting.study import Method, Snapshot, Study
from quantbooth.reporting.tables import Cell, Column, Row, Table

__all__ = [
    "TRADES",
    "Area",
    "Curve",
    "area_table",
    "areas",
    "curve_through",
    "curves",
    "explained",
    "front",
    "nondominated",
    "snapshots_csv",
]

TRADES = (("CLIP", "clip_t", "local_clip_i"), ("oracle", "oracle_prompt", "oracle_subject"))
"""Judge, the score across, the score up."""
AREA = Score("area", "area", "dominates", "Area of the trade-off that a method's snapshots dominate.", Unit("", 1, 4))
Point = tuple[float, float]


def nondominated(points: Sequence[Sequence[float]]) -> list[bool]:
    """Return whether no other point passes each: is nowhere lower and somewhere higher. A point with NaN is passed.

    Equal points pass each other nowhere, so all or none of them are in the Pareto set.
    """
    values = np.array([*points], dtype=float).reshape(len(points), -1 if len(points) else 0)
    one, other = values[None], values[:, None]
    passed = ((other >= one).all(-1) & (other > one).any(-1)).any(0)
    return [bool(found) for found in ~passed & ~np.isnan(values).any(-1)]


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Return the indices of the Pareto-optimal points, from left to right; of equal points the first."""
    first = dict[Point, int]()
    for k, ahead in enumerate(nondominated(points)):
        if ahead:
            first.setdefault(points[k], k)
    return sorted(first.values(), key=lambda k: points[k][0])


def dominated_area(points: Sequence[Point], reference: Point = (0.0, 0.0)) -> float:
    """Return the area of the union of the rectangles from `reference` to each point: the hypervolume of two scores.

    A point must exceed the reference in both scores to count.
    """
    above = [point for point in points if point[0] > reference[0] and point[1] > reference[1]]
    area, left = 0.0, reference[0]
    for x, y in (above[k] for k in pareto_front(above)):
        area += (x - left) * (y - reference[1])
        left = x
    return area


@dataclass(frozen=True)
class Curve:
    """One method's path: its complete snapshots, the untuned base at step 0 first, and the two scores at each.

    `marks` say in the plot what each point is, a number of steps or a strength; empty for the untuned base.
    `spans` are the intervals of both scores at the last point when there are several subjects.
    """

    method: Method
    label: str
    snapshots: tuple[Snapshot, ...]
    marks: tuple[str, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    spans: tuple[Interval, Interval] | None

    @property
    def steps(self) -> tuple[int, ...]:
        """Optimizer steps."""
        return tuple(step for _, step in self.snapshots)


def curves(study: Study, x: str, y: str) -> tuple[Curve, ...]:
    """Return a curve for every method with a complete snapshot; a tuned one starts at the untuned base of its weights.

    Snapshots that lack a subject or a seed are left out, because means over other subjects are not comparable. Empty
    where the study lacks a score.
    """
    if not {x, y} <= {score.key for score in study.scores}:
        return ()
    found = (_curve(study, method, x, y) for method in study.methods)
    return tuple(curve for curve in found if curve is not None)


def _curve(study: Study, method: Method, x: str, y: str) -> Curve | None:
    snapshots = [((method, step), f"{step:,}" if step else "") for step in study.steps(method)]
    return curve_through(study, method, study.label(method), snapshots, x, y)


def curve_through(
    study: Study, method: Method, label: str, snapshots: Sequence[tuple[Snapshot, str]], x: str, y: str
) -> Curve | None:
    """Return the curve of a method through snapshots with their marks, from the untuned base on; None without any.

    A snapshot that lacks a subject, a seed or a score is left out.
    """
    own = [(at, mark) for at, mark in snapshots if _complete(study, at, x, y)]
    if not own:
        return None
    start = study.start(method)
    if start and not method.untuned and _complete(study, (start, 0), x, y):
        own.insert(0, ((start, 0), ""))
    across, along = (tuple(_mean(study.means(*at, key)) for at, _ in own) for key in (x, y))
    last = own[-1][0]
    ends = [interval(study.means(*last, key)) for key in (x, y)]
    spans = (ends[0], ends[1]) if ends[0] and ends[1] and last == snapshots[-1][0] else None
    points, marks = (tuple(part) for part in zip(*own, strict=True))
    return Curve(method, label, points, marks, across, along, spans)


def _complete(study: Study, at: Snapshot, x: str, y: str) -> bool:
    return not study.missing(*at) and all(len(study.means(*at, key)) == len(study.subjects) for key in (x, y))


def _mean(means: dict[str, float]) -> float:
    return float(np.mean(list(means.values())))


@dataclass(frozen=True)
class Area:
    """The area that a curve dominates from (0, 0): per subject, then the mean with its interval over subjects.

    `lead` is its difference to the reference's area, corrected for how many there are; None for the reference.
    """

    curve: Curve
    by_subject: dict[str, float]
    mean: float
    interval: Interval | None
    lead: Difference | None
    on_front: tuple[int, ...]


def front(lines: tuple[Curve, ...]) -> tuple[Snapshot, ...]:
    """Return the Pareto front of the snapshots of all curves, from left to right."""
    own = {(line.snapshots[k]): (line.x[k], line.y[k]) for line in lines for k in range(len(line.steps))}
    names = list(own)
    return tuple(names[k] for k in pareto_front(list(own.values())))


def areas(study: Study, x: str, y: str) -> dict[Method, Area]:
    """Return the area of every curve, over its complete snapshots and its untuned base."""
    lines = curves(study, x, y)
    own = {line.method: _by_subject(study, line, x, y) for line in lines}
    tested = {
        pair: paired_comparison(AREA, own[pair[0][0]], own[pair[1][0]])
        for pair in _against(study)
        if pair[0][0] in own and pair[1][0] in own
    }
    leads = {one[0]: found for (one, _), found in corrected(tested).items()}
    best = front(lines)
    return {
        line.method: Area(
            line,
            own[line.method],
            _mean(own[line.method]),
            interval(own[line.method]),
            leads.get(line.method),
            tuple(step for method, step in best if method == line.method),
        )
        for line in lines
    }


def area_table(study: Study) -> Table:
    """Return rows of every method with a curve: for each judge its area, its lead, its steps on the front."""
    found = {judge: areas(study, x, y) for judge, x, y in TRADES if curves(study, x, y)}
    against = _against(study)
    reference = study.label(against[0][1][0]) if against else "reference"
    columns, rows = list[Column](), dict[Method, dict[str, Cell]]()
    for judge, by_arm in found.items():
        keys = [f"{kind} {judge}" for kind in ("area", "lead", "front")]
        titles = [f"area ({judge})", f"− {reference} ({judge})", f"on the front ({judge})"]
        columns += [Column(key, title) for key, title in zip(keys, titles, strict=True)]
        for method, area in by_arm.items():
            rows.setdefault(method, {}).update(zip(keys, _cells(area), strict=True))
    made = tuple(Row(study.label(method), cells, study.style(method)) for method, cells in rows.items())
    return Table("method", tuple(columns), made)


def as_markdown(study: Study) -> str:
    """Return the table under an explanation, or a line that there is none."""
    found = area_table(study)
    if not found.rows:
        return "No method has all subjects and seeds yet, so there is no area.\n"
    return f"{explained(study)}\n\n{found.to_markdown()}\n"


def explained(study: Study) -> str:
    """Return what the area is, in a few sentences."""
    unequal = len({study.steps(method) for method in study.tuned}) > 1
    caution = " Methods have snapshots at different steps, and more snapshots never dominate less." if unequal else ""
    return (
        "Area: what a method's snapshots and its untuned base dominate from (0, 0), prompt score times "
        "subject score; per subject, then the mean. On the front: the steps at which no snapshot of any "
        f"method is better at both scores. No step was chosen by it.{caution}"
    )


def snapshots_csv(study: Study) -> str:
    """Return every complete snapshot, unrounded: each score's mean with its interval, and whether it is on a front."""
    fronts = {judge: front(lines) for judge, x, y in TRADES if (lines := curves(study, x, y))}
    rows = []
    for method in study.methods:
        for step in (step for step in study.steps(method) if not study.missing(method, step)):
            row: dict[str, object] = {"method": study.label(method), "weights": method.quant, "step": step}
            for score in study.scores:
                means = study.means(method, step, score.key)
                spread = interval(means)
                row[score.key] = _mean(means) if means else float("nan")
                row[f"{score.key}_low"], row[f"{score.key}_high"] = (spread.low, spread.high) if spread else ("", "")
            row |= {f"front_{judge.lower()}": int((method, step) in best) for judge, best in fronts.items()}
            rows.append(row)
    return pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")


def _by_subject(study: Study, line: Curve, x: str, y: str) -> dict[str, float]:
    points: dict[str, list[Point]] = {}
    for snapshot in line.snapshots:
        across, up = (study.means(*snapshot, key) for key in (x, y))
        for subject, value in across.items():
            points.setdefault(subject, []).append((value, up[subject]))
    return {subject: dominated_area(own) for subject, own in points.items()}


def _against(study: Study) -> list[Pair]:
    """Return the pairs of tuned methods with the first reference on the right."""
    tuned = [pair for pair in pairs(study) if pair[0][0] != pair[1][0] and not pair[1][0].untuned]
    return [pair for pair in tuned if pair[1] == tuned[0][1]]


def _cells(found: Area) -> tuple[Cell, Cell, Cell]:
    unit, spread = AREA.unit, found.interval
    ends = "" if spread is None else f" [{unit.text(spread.low)}, {unit.text(spread.high)}]"
    steps = ", ".join(f"{step:,}" for step in sorted(found.on_front))
    return Cell(unit.text(found.mean) + ends, value=found.mean), difference_cell(found.lead), Cell(steps or NOTHING)
