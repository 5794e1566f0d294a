"""How far many differences can be trusted at once: a test for each, corrected for their number, and what would show.

    p           two-sided paired t test over subjects
    Holm        p'_(i) = max over j <= i of min(1, (m - j + 1) p_(j)),  p_(1) <= ... <= p_(m)
    detectable  (t_(1 - a / 2, n - 1) + t_(power, n - 1)) s / sqrt(n),  s the standard deviation of the n differences

Sources: Holm 1979 (Scandinavian Journal of Statistics 6); the minimum detectable effect is Bloom's (1995, Evaluation
Review 19).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

__all__ = ["detectable", "holm", "paired_p"]

NOISE = 1e-12
"""Of a difference: what only rounding tells apart is alike."""


def paired_p(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """How often differences as large would come of chance alone, were there none; differences that are all 0 give 1.

    Raises:
        ValueError: the two do not cover the same two or more subjects.
    """
    differences = _differences(one, other)
    if np.ptp(differences) <= NOISE * np.abs(differences).max():
        return float(differences[0] == 0)
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """The same p values, in their order, as they count where all of them are looked at.

    Raises:
        ValueError: when one is outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p values must be in [0, 1], got {p.tolist()}")
    order = np.argsort(p, kind="stable")
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    result = np.empty_like(p)
    result[order] = corrected
    return [float(value) for value in result]


def detectable(one: Mapping[str, float], other: Mapping[str, float], level: float = 0.05, power: float = 0.8) -> float:
    """The smallest true difference that so many subjects, scattered so, would show in `power` of all experiments.

    Raises:
        ValueError: the two do not cover the same two or more subjects.
    """
    differences = _differences(one, other)
    count = len(differences)
    quantiles = stats.t.ppf(1 - level / 2, count - 1) + stats.t.ppf(power, count - 1)
    return float(quantiles * differences.std(ddof=1) / np.sqrt(count))


def _differences(one: Mapping[str, float], other: Mapping[str, float]) -> Float[np.ndarray, " n"]:
    if one.keys() != other.keys() or len(one) < 2:
        raise ValueError(f"a comparison needs the same two or more subjects on both sides, got {[*one]} and {[*other]}")
    return np.array([one[subject] - other[subject] for subject in one], dtype=np.float64)
