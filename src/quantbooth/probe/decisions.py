"""When pictures are decided: monotone curves over the timestep of a prompt swap, and the zone borders from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import isotonic_regression

__all__ = ["Border", "borders", "decided"]

FALLEN = (0.05, 0.95)
RESAMPLES = 500

Answers = Mapping[str, tuple[Bool[np.ndarray, "pairs switches"], Bool[np.ndarray, "pairs switches"]]]
"""Attribute -> whether the picture of each pair, swapped at each t, matches the first prompt, and the second."""


@dataclass(frozen=True)
class Border:
    """A timestep with its 95 % bootstrap interval over pairs."""

    t: float
    low: float
    high: float


def decided(
    first: Bool[np.ndarray, "pairs switches"], second: Bool[np.ndarray, "pairs switches"]
) -> Float[np.ndarray, " switches"]:
    """Return d(t): the share of pictures that match the first prompt, among those that match either.

    Fitted to fall with rising t (isotonic regression): a later swap cannot undo what was decided before. A swap with no
    match has no weight, and without any match the curve is nan.
    """
    kept, changed = first.sum(0).astype(float), second.sum(0).astype(float)
    weight = kept + changed
    if not weight.any():
        return np.full(weight.shape, np.nan)
    share = kept / np.maximum(weight, 1)
    return isotonic_regression(share, weights=np.maximum(weight, 1e-9), increasing=False).x


def borders(answers: Answers, switches: Int[np.ndarray, " switches"], seed: int) -> tuple[Border, Border]:
    """Return both borders of the content zone: where the mean d(t) of all attributes has fallen by 5 % and 95 %.

    The fall is from t = 0 to T, because a picture without a swap may match the second prompt by mistake. `switches` are
    rising timesteps: below one the second prompt conditions. `seed` is that of the resampling.
    """
    pairs, rng = len(next(iter(answers.values()))[0]), np.random.default_rng(seed)
    drawn = [_crossings(answers, switches, rng.integers(pairs, size=pairs)) for _ in range(RESAMPLES)]
    found = _crossings(answers, switches, np.arange(pairs))
    known = [one for one in drawn if not np.isnan(one).any()] or [found]
    low, high = np.percentile(known, [2.5, 97.5], axis=0)
    lower, upper = (Border(float(t), float(a), float(b)) for t, a, b in zip(found, low, high, strict=True))
    return lower, upper


def _crossings(
    answers: Answers, switches: Int[np.ndarray, " switches"], rows: Int[np.ndarray, " n"]
) -> Sequence[float]:
    curves = [decided(first[rows], second[rows]) for first, second in answers.values()]
    known = [curve for curve in curves if not np.isnan(curve).any()]
    if not known:
        return [np.nan] * len(FALLEN)
    mean = np.mean(known, axis=0)
    fallen = (mean[0] - mean) / (mean[0] - mean[-1]) if mean[0] > mean[-1] else np.full(len(mean), np.nan)
    return [float(np.interp(share, fallen, switches)) for share in FALLEN]
