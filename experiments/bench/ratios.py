"""Ratios between rows: memory as it is, time by pairs of steps that were taken one right after the other.

time of a to b = median over turns of a_i / b_i                                     in one group
               = (median of a_i / r_i) / (median of b_i / s_i)                      in two, r and s the reference
"""

from collections.abc import Iterable
from statistics import median

from experiments.bench.results import Row

__all__ = ["found", "over_floor", "peak_gb", "peak_ratio", "step_ratio"]


def found(rows: Iterable[Row], **key: object) -> Row | None:
    """The first row in which all the values are these, if it has figures."""
    hits = (row for row in rows if row["reason"] is None and all(row[name] == value for name, value in key.items()))
    return next(hits, None)


def peak_gb(row: Row) -> float:
    """The peak that counts: of the GPU where there is one, else of the process."""
    peak: float = row["peak_rss_gb"] if row["cuda_peak_gb"] is None else row["cuda_peak_gb"]
    return peak


def over_floor(row: Row) -> float:
    """Peak to floor, without what the process of any method has loaded before it builds anything.

    The floor is what must be there when the forward ends: the base as it is stored, and what autograd keeps.
    """
    libraries: float = row["import_rss_gb"] if row["cuda_peak_gb"] is None else 0.0
    floor: float = row["base_file_mb"] / 1e3 + row["kept_gb"]
    return (peak_gb(row) - libraries) / floor


def peak_ratio(row: Row | None, other: Row | None) -> float | None:
    """Peak of a row to that of another."""
    return None if row is None or other is None else peak_gb(row) / peak_gb(other)


def step_ratio(row: Row | None, other: Row | None) -> float | None:
    """Seconds of a step to those of another row's step; None where the two cannot be compared."""
    if row is None or other is None:
        return None
    if row["reference_steps_s"] == other["reference_steps_s"]:
        return _paired(row["steps_s"], other["steps_s"])
    ours, theirs = (_paired(each["steps_s"], each["reference_steps_s"]) for each in (row, other))
    return None if ours is None or theirs is None else ours / theirs


def _paired(some: list[float], others: list[float]) -> float | None:
    if not some or len(some) != len(others):
        return None
    return median(one / other for one, other in zip(some, others, strict=True))
