"""What may be claimed: differences between methods, paired by subject, corrected for how many are looked at.

What may be claimed: differences between methods, paired by subject, and which method is best at a score.

Which snapshots are held against which, and what may be claimed when all these comparisons are made at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from quantbooth.reporting.columns import Score
from quantbooth.reporting.statistics import (
    ALPHA,
    Interval,
    holm,
    mean_interval,
    paired_difference,
    paired_p,
    ratio_of_means,
    smallest_seen,
)
from quantbooth.reporting.study import BASE, Arm, Study

__all__ = [
    "Difference",
    "FEWEST",
    "Pair",
    "Snapshot",
    "best",
    "corrected",
    "difference",
    "difference_between",
    "family",
    "interval",
    "last",
    "paired_claim",
    "pairs",
    "share_of_gain",
]

BOOTSTRAP_SEED = 0
FEWEST = 6
"""Subjects that can settle a sign: of fewer, even all on one side are no rarer than 2 / 2^5 > 5 % by chance.

From so many on the interval covers nearly as often as it says, too."""
Snapshot = tuple[Arm, int]
"""A method after so many steps."""


@dataclass(frozen=True)
class Difference:
    """Mean over subjects of one method's score minus another's; an interval only where there are several subjects.

    Attributes:
        by_subject: the difference of each subject.
        p: of the paired t-test, after correction where several differences were told; None for a single subject.
        seen_from: the smallest true difference that would be settled four times in five, where several were told.
    """

    score: Score
    mean: float
    interval: Interval | None
    by_subject: tuple[float, ...] = ()
    p: float | None = None
    seen_from: float | None = None

    @property
    def spread(self) -> float | None:
        """The wider half of the interval."""
        return None if self.interval is None else _wider_half(self.interval)

    @property
    def sign(self) -> int:
        """1 or -1 where the sign is to be told, 0 where it is unsettled or too small to be written."""
        if self.interval is not None and (self.interval.subjects < FEWEST or not self.interval.excludes_zero()):
            return 0
        if self.p is not None and self.p >= ALPHA:
            return 0
        return 0 if _written(self.mean, self.score) == 0 else int(np.sign(self.mean))


def last(study: Study, arm: Arm) -> int:
    """The arm's last snapshot: the one that is reported (never one chosen by its scores)."""
    return study.steps(arm)[-1]


def interval(means: dict[str, float]) -> Interval | None:
    """Bootstrap interval of a mean over subjects; None for a single one."""
    return mean_interval(means, np.random.default_rng(BOOTSTRAP_SEED)) if len(means) > 1 else None


def difference(study: Study, one: Arm, other: Arm, score: Score) -> Difference | None:
    """one - other at their last snapshots; None unless both are complete and have the score."""
    return difference_between(study, (one, last(study, one)), (other, last(study, other)), score)


def difference_between(study: Study, one: Snapshot, other: Snapshot, score: Score) -> Difference | None:
    """one - other; None unless both are complete and have the score."""
    pair = _paired(study, one, other, score.key)
    if pair is None:
        return None
    return paired_claim(score, *pair)


def paired_claim(score: Score, here: dict[str, float], there: dict[str, float]) -> Difference:
    """here - there, both by subject: the mean, its interval and its p, not yet corrected."""
    apart = tuple(here[subject] - there[subject] for subject in here)
    mean = float(np.mean(apart))
    if len(here) == 1:
        return Difference(score, mean, None, apart)
    spread = paired_difference(here, there, np.random.default_rng(BOOTSTRAP_SEED))
    return Difference(score, mean, spread, apart, paired_p(apart))


def share_of_gain(study: Study, one: Arm, other: Arm, score: Score) -> Interval | None:
    """What `one` gained over its own untuned base, as a share of what `other` gained over its own.

    Both at their last snapshots; gains are means over subjects, and the interval draws subjects again. None where one
    of the four is missing, there is a single subject, or `other` gained nothing that is clear of zero.
    """
    ours, theirs = (_gains(study, arm, score) for arm in (one, other))
    if ours is None or theirs is None or len(ours) < 2 or ours.keys() != theirs.keys():
        return None
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    return ratio_of_means(ours, theirs, rng) if mean_interval(theirs, rng).low > 0 else None


def _gains(study: Study, arm: Arm, score: Score) -> dict[str, float] | None:
    """By subject: the score at the arm's last snapshot minus that of the untuned base of the same weights."""
    start = Arm(BASE, arm.quant)
    known = start in study.arms and not study.lacking(arm)
    pair = _paired(study, (arm, last(study, arm)), (start, 0), score.key) if known else None
    return None if pair is None else {subject: value - pair[1][subject] for subject, value in pair[0].items()}


def _paired(study: Study, one: Snapshot, other: Snapshot, key: str) -> tuple[dict[str, float], dict[str, float]] | None:
    if any(study.missing(*snapshot) for snapshot in (one, other)):
        return None
    here, there = (study.means(*snapshot, key) for snapshot in (one, other))
    return (here, there) if here and here.keys() == there.keys() else None


def best(study: Study, score: Score) -> tuple[Arm, ...]:
    """The tuned methods to mark at a score.

    Several subjects: the highest, if its paired difference to every other has an interval above zero. One subject:
    the highest as written, ties included, unless all are equal. Incomplete methods neither win nor compete.
    """
    arms = [arm for arm in study.arms if not arm.untuned and not study.lacking(arm)]
    means = {arm: list(study.means(arm, last(study, arm), score.key).values()) for arm in arms}
    heights = {arm: float(np.mean(values)) for arm, values in means.items() if values}
    if len(heights) < 2:
        return ()
    top = max(heights, key=lambda arm: heights[arm])
    if len(study.subjects) > 1:
        rivals = [difference(study, top, arm, score) for arm in heights if arm != top]
        return (top,) if all(rival is not None and rival.sign > 0 for rival in rivals) else ()
    tied = tuple(arm for arm in heights if _written(heights[arm], score) == _written(heights[top], score))
    return () if len(tied) == len(heights) else tied


def _wider_half(found: Interval) -> float:
    """The larger distance from the mean to an end of the interval: what is written after a plus-minus."""
    return max(found.mean - found.low, found.high - found.mean)


def _written(value: float, score: Score) -> float:
    return round(value / score.unit.size, score.unit.decimals)


Pair = tuple[Snapshot, Snapshot]
REFERENCES = ("baseline", "float")


def pairs(study: Study) -> Iterator[Pair]:
    """What tuning did to each base; each method against baseline and float, or the first; late against early steps.

    Of complete methods only: nothing can be told of the others.
    """
    tuned = [arm for arm in study.arms if not arm.untuned and not study.lacking(arm)]
    for arm in tuned:
        if (start := Arm(BASE, arm.quant)) in study.arms:
            yield (arm, last(study, arm)), (start, 0)
    told = set()
    for reference in [arm for name in REFERENCES for arm in tuned if arm.method == name] or tuned[:1]:
        for arm in tuned:
            if arm != reference and (pair := frozenset((arm, reference))) not in told:
                told.add(pair)
                yield (arm, last(study, arm)), (reference, last(study, reference))
    for arm in tuned:
        complete = [step for step in study.steps(arm) if not study.missing(arm, step)]
        if len(complete) > 1:
            yield (arm, complete[-1]), (arm, complete[0])


def family(study: Study, score: Score) -> dict[Pair, Difference]:
    """Every difference of one score that can be told, corrected for how many there are."""
    found = {pair: difference_between(study, *pair, score) for pair in pairs(study)}
    return corrected({pair: one for pair, one in found.items() if one is not None})


def corrected(found: dict[Pair, Difference]) -> dict[Pair, Difference]:
    """The same differences with p after Holm, and the smallest that would be seen among so many.

    Fewer than FEWEST subjects see none, however large.
    """
    tested = {pair: one for pair, one in found.items() if one.p is not None}
    adjusted = dict(zip(tested, holm([one.p for one in tested.values() if one.p is not None]), strict=True))
    return {
        pair: one if one.p is None else replace(one, p=adjusted[pair], seen_from=_seen_from(one, len(tested)))
        for pair, one in found.items()
    }


def _seen_from(one: Difference, comparisons: int) -> float | None:
    return smallest_seen(one.by_subject, comparisons) if len(one.by_subject) >= FEWEST else None
