"""Many comparisons at once: the p of a paired difference, Holm's correction, and what is too small to be seen."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import chi2, norm, t, ttest_1samp

__all__ = ["ALPHA", "POWER", "holm", "paired_p", "smallest_seen"]

ALPHA, POWER = 0.05, 0.8
QUANTILES = 4000
EQUAL = 1e-12
"""Differences this close to each other differ by rounding alone."""


def paired_p(differences: Sequence[float]) -> float:
    """p of the two-sided paired t-test: how often chance alone would set the mean this far from zero.

    Where all differences are the same there is no spread to judge by: 0 for a difference, 1 for none.

    Raises:
        ValueError: fewer than two differences.
    """
    d = np.asarray(differences, dtype=np.float64)
    if len(d) < 2:
        raise ValueError(f"a paired test needs two differences or more, got {len(d)}")
    if np.ptp(d) <= EQUAL:
        return 0.0 if abs(d.mean()) > EQUAL else 1.0
    return float(ttest_1samp(d, 0.0).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p of m comparisons (Holm 1979): the k-th smallest becomes max over j <= k of (m - j + 1) p_j, at most 1.

    Those below alpha may all be claimed: a false one is among them no more often than alpha, whatever their dependence.

    Raises:
        ValueError: one is no probability.
    """
    values = np.asarray(p, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p must lie in [0, 1], got {values.tolist()}")
    order = np.argsort(values, kind="stable")
    weights = np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * weights), 1.0)
    return [float(value) for value in adjusted]


def smallest_seen(differences: Sequence[float], comparisons: int = 1) -> float:
    """The smallest true mean that a paired t-test over as many subjects, as spread, settles with probability POWER.

    delta = ncp s / sqrt(n), where ncp solves P(|T'(n - 1, ncp)| > t(1 - alpha / 2 m)) = POWER and m comparisons are
    made: the level that Holm asks of the first of them. Smaller differences that are found are as good as noise.

    Raises:
        ValueError: fewer than two differences, or no comparison.
    """
    d = np.asarray(differences, dtype=np.float64)
    if len(d) < 2 or comparisons < 1:
        raise ValueError(f"this needs two differences and one comparison or more, got {len(d)} and {comparisons}")
    degrees = len(d) - 1
    # T' = (Z + ncp) / sqrt(V / (n - 1)): a mean over V's quantiles, since scipy's nct is nan far out at few degrees
    spreads = np.sqrt(chi2.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES, degrees) / degrees)
    limits = t.ppf(1 - ALPHA / (2 * comparisons), degrees) * spreads

    def lacking(ncp: float) -> float:
        return float(np.mean(norm.sf(limits - ncp) + norm.cdf(-limits - ncp)) - POWER)

    highest = 1.0
    while lacking(highest) < 0:
        highest *= 2
    return float(brentq(lacking, 0.0, highest) * d.std(ddof=1) / np.sqrt(len(d)))
