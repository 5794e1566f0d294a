"""Intervals over many items: of their mean, of how far it lies above another's, and of a share of hits."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.stats import binomtest, bootstrap

from quantbooth.metrics.statistics import Interval

__all__ = ["mean", "relative_increase", "share"]

RESAMPLES = 1999
Numbers = Sequence[float] | Float[np.ndarray, " n"]


def mean(values: Numbers, rng: np.random.Generator, confidence: float = 0.95) -> Interval:
    """Mean of items with its percentile bootstrap interval (for few subjects `statistics.mean_interval` is better).

    Raises:
        ValueError: fewer than two items.
    """
    a = np.asarray(values, dtype=np.float64)
    if len(a) < 2:
        raise ValueError(f"an interval needs two items or more, got {len(a)}")
    found = bootstrap((a,), np.mean, n_resamples=RESAMPLES, confidence_level=confidence, method="percentile", rng=rng)
    low, high = found.confidence_interval
    return Interval(float(a.mean()), float(low), float(high), len(a))


def relative_increase(
    ours: Numbers,
    theirs: Numbers,
    rng: np.random.Generator,
    confidence: float = 0.95,
) -> Interval:
    """mean(ours) / mean(theirs) - 1 with its percentile bootstrap interval; pairs are drawn again, not numbers.

    Raises:
        ValueError: fewer than two pairs, lengths differ, or a number of theirs is not positive.
    """
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if a.shape != b.shape or len(a) < 2:
        raise ValueError(f"an increase needs two pairs or more, got {len(a)} and {len(b)} numbers")
    if not (b > 0).all():
        raise ValueError(f"an increase needs positive numbers to compare with, got {b.min():g}")

    def increase(
        one: Float[np.ndarray, "..."], other: Float[np.ndarray, "..."], axis: int = -1
    ) -> Float[np.ndarray, "..."] | float:
        return one.mean(axis=axis) / other.mean(axis=axis) - 1

    found = bootstrap(
        (a, b), increase, paired=True, n_resamples=RESAMPLES, confidence_level=confidence, method="percentile", rng=rng
    )
    low, high = found.confidence_interval
    return Interval(float(increase(a, b)), float(low), float(high), len(a))


def share(hits: Numbers, confidence: float = 0.95) -> Interval:
    """Share of ones among ones and zeros with Wilson's interval, which has a width at 0 and 1 too (Wilson 1927).

    Raises:
        ValueError: there are none, or one is neither 1 nor 0.
    """
    values = np.asarray(hits, dtype=np.float64)
    if not len(values) or not np.isin(values, (0.0, 1.0)).all():
        raise ValueError(f"a share needs ones and zeros, got {values.tolist()[:5]}")
    found = binomtest(int(values.sum()), len(values)).proportion_ci(confidence, method="wilson")
    return Interval(float(values.mean()), float(found.low), float(found.high), len(values))
