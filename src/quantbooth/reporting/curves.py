"""Curves of one score against another as training goes on, over complete snapshots only."""

from dataclasses import dataclass

import numpy as np

from quantbooth.metrics.statistics import Interval
from quantbooth.reporting.claims import Snapshot, interval, last
from quantbooth.reporting.study import BASE, Arm, Study

__all__ = ["Curve", "curves"]


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
