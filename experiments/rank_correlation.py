"""Rank correlation of a metric with the truth, within each subject, then over subjects, with intervals and tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from quantbooth.reporting.columns import NOTHING
from quantbooth.reporting.statistics import Interval, mean_interval, paired_difference
from quantbooth.reporting.tables import markdown

__all__ = ["LEVELS", "Variant", "correlations", "differences_table", "over_subjects", "validity_table"]

FEWEST = 3
"""Points that have ranks worth comparing."""
LEVELS = {"image": "image by image", "setting": "setting by setting"}
"""What is ranked within a subject: its pictures, or the means of its settings (method, weights, seed, step)."""
SEED = 0


@dataclass(frozen=True)
class Variant:
    """A metric, what it was measured with, and the truth it should follow; `column` is where its values are."""

    metric: str
    measured_with: str
    truth: str
    column: str


def correlations(frame: pd.DataFrame, variant: Variant, level: str) -> dict[str, float]:
    """Spearman's rank correlation with the truth by subject; subjects with too few points or a constant are left out.

    `frame` has a row for each picture with its subject, setting, metrics and truths; `level` is one of LEVELS.
    """
    known = frame[["subject", "setting", variant.column, variant.truth]].dropna()
    if level == "setting":
        known = known.groupby(["subject", "setting"], sort=False).mean().reset_index()
    found = {}
    for subject, rows in known.groupby("subject", sort=False):
        values, truths = (rows[name].to_numpy(dtype=float) for name in (variant.column, variant.truth))
        if len(rows) >= FEWEST and np.ptp(values) > 0 and np.ptp(truths) > 0:
            found[str(subject)] = float(spearmanr(values, truths).statistic)
    return found


def over_subjects(found: Mapping[str, float]) -> tuple[float, Interval | None]:
    """Mean over subjects with its 95 % bootstrap interval; subjects are drawn again, not pictures, whose errors within
    one subject are not independent. NaN for no subject, no interval for one.
    """
    if len(found) < 2:
        return next(iter(found.values()), math.nan), None
    interval = mean_interval(dict(found), np.random.default_rng(SEED))
    return interval.mean, interval


def validity_table(frame: pd.DataFrame, variants: Sequence[Variant]) -> str:
    """Each variant's correlation with its truth, at both levels."""
    head = ["metric", "measured with", "truth", *(f"rank correlation, {told}" for told in LEVELS.values()), "subjects"]
    rows = []
    for variant in variants:
        found = [correlations(frame, variant, level) for level in LEVELS]
        told = [_told(*over_subjects(one)) for one in found]
        rows.append([variant.metric, variant.measured_with, variant.truth, *told, str(max(map(len, found)))])
    return markdown(head, rows) + "\n"


def differences_table(frame: pd.DataFrame, plain: Variant, others: Sequence[Variant]) -> str:
    """By how much each other variant's correlation is higher than the plain one's, paired by subject."""
    head = ["metric", "measured with", *(f"higher by, {told}" for told in LEVELS.values())]
    rows = []
    for other in others:
        told = [_told(*_higher(frame, other, plain, level), signed=True) for level in LEVELS]
        rows.append([other.metric, other.measured_with, *told])
    return markdown(head, rows) + "\n"


def _higher(frame: pd.DataFrame, one: Variant, other: Variant, level: str) -> tuple[float, Interval | None]:
    """Over the subjects that both have."""
    here, there = (correlations(frame, variant, level) for variant in (one, other))
    shared = [subject for subject in here if subject in there]
    if len(shared) < 2:
        return (here[shared[0]] - there[shared[0]] if shared else math.nan), None
    mine, others = ({subject: side[subject] for subject in shared} for side in (here, there))
    interval = paired_difference(mine, others, np.random.default_rng(SEED))
    return interval.mean, interval


def _told(mean: float, interval: Interval | None, signed: bool = False) -> str:
    if math.isnan(mean):
        return NOTHING
    sign = "+" if signed else ""
    value = f"{mean:{sign}.2f}"
    return value if interval is None else f"{value} [{interval.low:{sign}.2f}, {interval.high:{sign}.2f}]"
