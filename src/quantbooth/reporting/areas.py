"""Curves of two scores over the training, which snapshots no other beats, and the area a method dominates.

Two scores at once: which points no other beats at both, and how much area they dominate together.

Curves of one score against another as training goes on, over complete snapshots only.

How much of the trade-off each method dominates, and which snapshots no other beats: one number for a whole curve.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from quantbooth.reporting.claims import Difference, Pair, Snapshot, corrected, interval, last, paired_claim, pairs
from quantbooth.reporting.columns import NOTHING, Score, Unit
from quantbooth.reporting.differences import difference_cell, sheet_markdown
from quantbooth.reporting.layout import Cell, Written
from quantbooth.reporting.statistics import Interval
from quantbooth.reporting.study import BASE, Arm, Study

__all__ = [
    "Area",
    "Curve",
    "TRADES",
    "area_sheet",
    "areas",
    "as_csv",
    "as_markdown",
    "curves",
    "dominated_area",
    "explained",
    "front",
    "pareto_front",
]

Point = tuple[float, float]


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Places of the points that none is at least as good as at both and better at one; x rises along them, y falls.

    Of equal points the first is told.
    """
    front: list[int] = []
    highest = float("-inf")
    for k in sorted(range(len(points)), key=lambda k: (-points[k][0], -points[k][1], k)):
        if points[k][1] > highest:
            front.append(k)
            highest = points[k][1]
    return front[::-1]


def dominated_area(points: Sequence[Point], reference: Point = (0.0, 0.0)) -> float:
    """Area of the union of the rectangles from `reference` to each point: the hypervolume of two scores.

    A point that is not above the reference at both scores dominates nothing.
    """
    above = [point for point in points if point[0] > reference[0] and point[1] > reference[1]]
    area, left = 0.0, reference[0]
    for x, y in (above[k] for k in pareto_front(above)):
        area += (x - left) * (y - reference[1])
        left = x
    return area


@dataclass(frozen=True)
class Curve:
    """One method's path: optimizer steps, and the two scores at each, the untuned base at step 0 first.

    `snapshots` are what lies at each step. `spans` are the intervals of both scores at the last step when there are
    several subjects.
    """

    arm: Arm
    label: str
    steps: tuple[int, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    spans: tuple[Interval, Interval] | None
    snapshots: tuple[Snapshot, ...]


def curves(study: Study, x: str, y: str) -> tuple[Curve, ...]:
    """A curve for every arm with a complete snapshot; a tuned arm starts at the untuned base of its own weights.

    Snapshots that lack a subject or a seed are left out: over other subjects they would lie elsewhere for no reason
    of the method's.
    """
    found = (_curve(study, arm, x, y) for arm in study.arms)
    return tuple(curve for curve in found if curve is not None)


def _curve(study: Study, arm: Arm, x: str, y: str) -> Curve | None:
    own = [(arm, step) for step in study.steps(arm) if _complete(study, arm, step, x, y)]
    if not own:
        return None
    start = Arm(BASE, arm.quant)
    if not arm.untuned and start in study.arms and _complete(study, start, 0, x, y):
        own.insert(0, (start, 0))
    points = [tuple(_mean(study.means(at, step, key)) for key in (x, y)) for at, step in own]
    ends = [interval(study.means(*own[-1], key)) for key in (x, y)]
    across, along = ends
    spans = (across, along) if across and along and own[-1][1] == last(study, arm) else None
    steps = tuple(step for _, step in own)
    x_values, y_values = (tuple(point[k] for point in points) for k in (0, 1))
    return Curve(arm, study.label(arm), steps, x_values, y_values, spans, tuple(own))


def _complete(study: Study, arm: Arm, step: int, x: str, y: str) -> bool:
    return not study.missing(arm, step) and all(len(study.means(arm, step, k)) == len(study.subjects) for k in (x, y))


def _mean(means: dict[str, float]) -> float:
    return float(np.mean(list(means.values())))


TRADES = (("CLIP", "clip_t", "local_clip_i"), ("oracle", "oracle_prompt", "oracle_subject"))
"""Judge, the score across, the score up."""
AREA = Score("area", "area", "dominates", "Area of the trade-off that a method's snapshots dominate.", Unit("", 1, 4))


@dataclass(frozen=True)
class Area:
    """What a curve dominates from (0, 0) up: for each subject apart, then the mean with its interval over subjects.

    `settled` is its difference to the reference's area, corrected for how many are told; None for the reference.
    """

    curve: Curve
    by_subject: dict[str, float]
    mean: float
    interval: Interval | None
    settled: Difference | None
    on_front: tuple[int, ...]


def front(lines: tuple[Curve, ...]) -> tuple[Snapshot, ...]:
    """The snapshots of all curves that no other beats at both scores, from the left to the right of the plot."""
    own = {(line.snapshots[k]): (line.x[k], line.y[k]) for line in lines for k in range(len(line.steps))}
    names = list(own)
    return tuple(names[k] for k in pareto_front(list(own.values())))


def areas(study: Study, x: str, y: str) -> tuple[Area, ...]:
    """One for every curve. Each counts its own snapshots and the untuned base it began at, complete ones only."""
    lines = curves(study, x, y)
    by_subject = {line.label: _by_subject(study, line, x, y) for line in lines}
    settled, best = _settled(study, lines, by_subject), front(lines)
    return tuple(
        Area(
            line,
            own := by_subject[line.label],
            float(np.mean(list(own.values()))),
            interval(own),
            settled.get(line.label),
            tuple(step for arm, step in best if arm == line.arm),
        )
        for line in lines
    )


def area_sheet(study: Study) -> Written:
    """Rows: every method with a curve; for each judge its area, its lead over the reference, its steps on the front."""
    found = {judge: {a.curve.label: a for a in areas(study, x, y)} for judge, x, y in _judged(study)}
    labels = tuple(dict.fromkeys(label for by_label in found.values() for label in by_label))
    titles = [
        title
        for judge in found
        for title in (f"area ({judge})", f"− {_reference(study)} ({judge})", f"on the front ({judge})")
    ]
    rows = tuple(tuple(cell for of in found.values() for cell in _cells(of.get(label))) for label in labels)
    return Written(tuple(titles), labels, rows)


def as_markdown(study: Study) -> str:
    """The table under what it is; a line that says so where there is nothing to tell."""
    sheet = area_sheet(study)
    if not sheet.labels:
        return "No method has all subjects and seeds yet, so no area can be told.\n"
    return f"{explained(study)}\n\n{sheet_markdown('method', sheet)}\n"


def explained(study: Study) -> str:
    """What the area is, in a few sentences."""
    unequal = len({study.steps(arm) for arm in study.arms if not arm.untuned}) > 1
    caution = " Methods kept other steps, and more snapshots dominate no less: mind that." if unequal else ""
    return (
        "Area: what a method's snapshots and the untuned base it began at dominate from (0, 0), prompt score times "
        "subject score; for each subject apart, then the mean. On the front: the steps at which no snapshot of any "
        f"method is better at both scores. No step was chosen by it.{caution}"
    )


def as_csv(study: Study) -> str:
    """Every complete snapshot, unrounded: each score's mean with its interval, and whether it is on a judge's front."""
    fronts = {judge: front(curves(study, x, y)) for judge, x, y in _judged(study)}
    rows = []
    for arm in study.arms:
        for step in (step for step in study.steps(arm) if not study.missing(arm, step)):
            row: dict[str, object] = {"method": study.label(arm), "weights": arm.quant, "step": step}
            for score in study.scores:
                means = study.means(arm, step, score.key)
                spread = interval(means)
                row[score.key] = float(np.mean(list(means.values()))) if means else float("nan")
                row[f"{score.key}_low"], row[f"{score.key}_high"] = (spread.low, spread.high) if spread else ("", "")
            row |= {f"front_{judge.lower()}": int((arm, step) in best) for judge, best in fronts.items()}
            rows.append(row)
    return pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")


def _by_subject(study: Study, line: Curve, x: str, y: str) -> dict[str, float]:
    points: dict[str, list[tuple[float, float]]] = {}
    for snapshot in line.snapshots:
        across, up = (study.means(*snapshot, key) for key in (x, y))
        for subject, value in across.items():
            points.setdefault(subject, []).append((value, up[subject]))
    return {subject: dominated_area(own) for subject, own in points.items()}


def _settled(study: Study, lines: tuple[Curve, ...], by_subject: dict[str, dict[str, float]]) -> dict[str, Difference]:
    """Each method's area against the reference's, as many as there are corrected for."""
    named = {line.arm: line.label for line in lines}
    told: dict[Pair, Difference] = {}
    for one, other in _against(study):
        if one[0] in named and other[0] in named:
            here, there = (by_subject[named[arm]] for arm in (one[0], other[0]))
            told[one, other] = paired_claim(AREA, here, there)
    return {named[one[0]]: found for (one, _), found in corrected(told).items()}


def _against(study: Study) -> list[Pair]:
    """The pairs of different tuned methods that have the first reference in them, that on the right."""
    tuned = [pair for pair in pairs(study) if pair[0][0] != pair[1][0] and not pair[1][0].untuned]
    return [pair for pair in tuned if pair[1] == tuned[0][1]]


def _reference(study: Study) -> str:
    against = _against(study)
    return study.label(against[0][1][0]) if against else "reference"


def _judged(study: Study) -> list[tuple[str, str, str]]:
    keys = {score.key for score in study.scores}
    return [trade for trade in TRADES if {trade[1], trade[2]} <= keys and curves(study, trade[1], trade[2])]


def _cells(found: Area | None) -> tuple[Cell, Cell, Cell]:
    if found is None:
        return Cell(NOTHING), Cell(NOTHING), Cell(NOTHING)
    unit, spread = AREA.unit, found.interval
    ends = "" if spread is None else f" [{unit.text(spread.low)}, {unit.text(spread.high)}]"
    steps = ", ".join(f"{step:,}" for step in sorted(found.on_front))
    return Cell(unit.text(found.mean) + ends), difference_cell(found.settled), Cell(steps or NOTHING)
