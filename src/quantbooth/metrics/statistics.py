"""Statistics: means per subject, and how far a difference between two methods can be trusted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import bootstrap, norm, t


@dataclass(frozen=True)
class Interval:
    """A mean over subjects with its confidence interval."""

    mean: float
    low: float
    high: float
    subjects: int

    def excludes_zero(self) -> bool:
        """Whether the sign of the mean is settled at the interval's confidence."""
        return self.low > 0 or self.high < 0


def subject_means(values: Sequence[float], subjects: Sequence[str]) -> dict[str, float]:
    """Mean of one score over each subject's pictures, in order of first appearance.

    Raises:
        ValueError: lengths differ, or a value is not finite (from which subject).
    """
    rows: dict[str, list[float]] = {}
    for value, subject in zip(values, subjects, strict=True):
        if not np.isfinite(value):
            raise ValueError(f"scores must be finite, got {value} from subject {subject!r}")
        rows.setdefault(subject, []).append(float(value))
    return {subject: float(np.mean(found)) for subject, found in rows.items()}


def mean_interval(
    means: dict[str, float], rng: np.random.Generator, confidence: float = 0.95, resamples: int = 9999
) -> Interval:
    """Bootstrap interval of the mean over subjects: subjects are drawn again with replacement, each with all its seeds.

    The expanded percentile interval (Hesterberg 2015, section 4.4): the plain one is too narrow for few subjects. Of
    normal data the nominal 95 % covered 50 % of the time at 2 subjects, 87 % at 4, 94 % at 6, 8 and 10, 95 % at 12 and
    30; of exponential data 83 % at 4, 90 % at 6, 91 % at 8, 92 % at 20 and 30. Neither pictures nor seeds are drawn
    again within a subject: its mean varies by them already (Davison and Hinkley 1997, section 3.8).

    Raises:
        ValueError: fewer than two subjects.
    """
    values = np.array(list(means.values()), dtype=np.float64)
    if len(values) < 2:
        raise ValueError(f"an interval over subjects needs at least two of them, got {len(values)}")
    if np.ptp(values) == 0:
        return Interval(float(values[0]), float(values[0]), float(values[0]), len(values))
    level = expanded(confidence, len(values))
    found = bootstrap((values,), np.mean, confidence_level=level, n_resamples=resamples, method="percentile", rng=rng)
    low, high = found.confidence_interval
    return Interval(float(values.mean()), float(low), float(high), len(values))


def expanded(confidence: float, count: int) -> float:
    """The level to ask of a percentile interval over `count` items so that it covers as often as `confidence` says.

    1 - 2 Phi(-sqrt(n / (n - 1)) t(n - 1)): resamples spread too little by sqrt((n - 1) / n), and like a normal where
    few items call for Student's t (Hesterberg 2015, section 4.4).
    """
    width = np.sqrt(count / (count - 1)) * t.ppf((1 + confidence) / 2, count - 1)
    return float(1 - 2 * norm.cdf(-width))


def paired_difference(
    one: dict[str, float],
    other: dict[str, float],
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 9999,
) -> Interval:
    """Bootstrap interval of the mean difference one - other, paired by subject.

    Raises:
        ValueError: the two do not cover the same subjects, or fewer than two.
    """
    if one.keys() != other.keys():
        unpaired = sorted(one.keys() ^ other.keys())
        raise ValueError(f"a paired difference needs the same subjects on both sides, got unpaired {unpaired}")
    return mean_interval({subject: one[subject] - other[subject] for subject in one}, rng, confidence, resamples)


def ratio_of_means(
    one: dict[str, float],
    other: dict[str, float],
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 9999,
) -> Interval:
    """mean(one) / mean(other) with its expanded percentile bootstrap interval, paired by subject.

    Raises:
        ValueError: the two do not cover the same subjects, fewer than two, or the mean of the other is not positive.
    """
    if one.keys() != other.keys() or len(one) < 2:
        raise ValueError(f"a ratio needs the same two or more subjects on both sides, got {[*one]} and {[*other]}")
    pairs = np.array([(one[subject], other[subject]) for subject in one], dtype=np.float64)
    if pairs[:, 1].mean() <= 0:
        raise ValueError(f"a ratio needs a positive mean to divide by, got {pairs[:, 1].mean():g}")

    def ratio(a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."], axis: int = -1) -> Float[np.ndarray, "..."]:
        return a.mean(axis=axis) / b.mean(axis=axis)

    found = bootstrap(
        (pairs[:, 0], pairs[:, 1]),
        ratio,
        paired=True,
        n_resamples=resamples,
        confidence_level=expanded(confidence, len(pairs)),
        method="percentile",
        rng=rng,
    )
    low, high = found.confidence_interval
    return Interval(float(pairs[:, 0].mean() / pairs[:, 1].mean()), float(low), float(high), len(pairs))
