"""Trade-off curves in one number each: the area that a method's snapshots dominate, and which are on the front."""

import numpy as np
from jaxtyping import Float
from scipy.stats import bootstrap

from quantbooth.metrics.pareto import dominated_area, front
from quantbooth.metrics.statistics import Interval
from quantbooth.reporting.claims import BOOTSTRAP_SEED
from quantbooth.reporting.columns import NOTHING, score_named
from quantbooth.reporting.curves import Curve, curves
from quantbooth.reporting.layout import Cell, Written
from quantbooth.reporting.study import BASE, Arm, Study

__all__ = ["area_of", "area_sheet", "explained"]

X, Y = "clip_t", "local_clip_i"
RESAMPLES = 999
THOUSANDTH = 1e-3


def area_sheet(study: Study) -> Written:
    """Rows: every tuned method with a complete snapshot; its area, and its steps that are on the common front."""
    found = [curve for curve in curves(study, X, Y) if not curve.arm.untuned]
    points = [(curve, step, point) for curve in found for step, point in zip(curve.steps, _points(curve), strict=True)]
    on = front([point for _, _, point in points])
    rows = []
    for curve in found:
        steps = [step for (one, step, _), is_on in zip(points, on, strict=True) if one is curve and is_on]
        area = area_of(study, curve)
        span = "" if area.subjects < 2 else f" [{_text(area.low)}, {_text(area.high)}]"
        told = ", ".join(f"{step:,}" for step in steps) or NOTHING
        rows.append((curve.label, (Cell(f"{_text(area.mean)}{span}"), Cell(told))))
    labels, cells = [label for label, _ in rows], [cells for _, cells in rows]
    return Written(("dominated area (10⁻³)", "steps on the front"), tuple(labels), tuple(cells))


def area_of(study: Study, curve: Curve) -> Interval:
    """The area of the curve of means, with its percentile interval over subjects drawn again."""
    values, reference = _values(study, curve), reference_of(study)

    def area(subjects: Float[np.ndarray, " n"]) -> float:
        means = values[:, :, subjects.astype(int)].mean(axis=2)
        return dominated_area([(float(x), float(y)) for x, y in means], reference)

    count = values.shape[2]
    mean = area(np.arange(count))
    if count < 2:
        return Interval(mean, mean, mean, count)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    drawn = (np.arange(count),)
    found = bootstrap(drawn, area, n_resamples=RESAMPLES, vectorized=False, method="percentile", rng=rng)
    return Interval(mean, float(found.confidence_interval.low), float(found.confidence_interval.high), count)


def reference_of(study: Study) -> tuple[float, float]:
    """The lowest of each score over all complete snapshots, the untuned bases among them."""
    points = [point for curve in curves(study, X, Y) for point in _points(curve)]
    return min(x for x, _ in points), min(y for _, y in points)


def explained(study: Study) -> str:
    """What the area is, and from where it is measured."""
    x, y = reference_of(study)
    titles = [score_named(key).title for key in (X, Y)]
    return (
        f"The area below and left of a method's snapshots, its untuned base among them, in {titles[0]} and "
        f"{titles[1]}, from the lowest of each over all snapshots ({x:.3f}, {y:.3f}): a larger area reaches better "
        "pairs of both. In brackets the 95 % bootstrap interval over subjects. On the front are snapshots that no "
        "other equals or exceeds in both scores."
    )


def _points(curve: Curve) -> list[tuple[float, float]]:
    return list(zip(curve.x, curve.y, strict=True))


def _values(study: Study, curve: Curve) -> Float[np.ndarray, "steps scores subjects"]:
    def row(step: int, key: str) -> list[float]:
        arm = curve.arm if step or curve.arm.untuned else Arm(BASE, curve.arm.quant)
        means = study.means(arm, step, key)
        return [means[subject] for subject in study.subjects]

    return np.array([[row(step, key) for key in (X, Y)] for step in curve.steps])


def _text(value: float) -> str:
    return f"{value / THOUSANDTH:.2f}"
