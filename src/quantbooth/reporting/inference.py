"""Inference: paired differences between methods, corrected for multiple comparisons, and the best method."""

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
from quantbooth.reporting.study import Method, Snapshot, Study

__all__ = ["FEWEST", "Difference", "Pair", "all_differences", "best", "corrected", "difference", "interval", "pairs"]

BOOTSTRAP_SEED = 0
FEWEST = 6
"""Subjects that can settle a sign: of fewer, even all on one side are no rarer than 2 / 2^5 > 5 % by chance.

From so many on the interval covers nearly as often as it says, too."""
Pair = tuple[Snapshot, Snapshot]


@dataclass(frozen=True)
class Difference:
    """Mean over subjects of one method's score minus another's; an interval only where there are several subjects.

    Attributes:
        by_subject: the difference of each subject.
        p: of the paired t-test, after correction where several differences were made; None for a single subject.
        seen_from: the smallest true difference that would be settled four times in five, where several were made.
    """

    score: Score
    mean: float
    interval: Interval | None
    by_subject: tuple[float, ...] = ()
    p: float | None = None
    seen_from: float | None = None

    @property
    def settled(self) -> bool:
        """Whether the sign may be claimed: FEWEST subjects, an interval clear of zero, p below 5 %, not shown as 0."""
        found = self.interval
        if found is None or found.subjects < FEWEST or not found.excludes_zero():
            return False
        return (self.p is None or self.p < ALPHA) and _written(self.mean, self.score) != 0

    @property
    def sign(self) -> int:
        """1 or -1 where the sign is settled, else 0."""
        return int(np.sign(self.mean)) if self.settled else 0


def interval(means: dict[str, float]) -> Interval | None:
    """Return the bootstrap interval of a mean over subjects; None for a single one."""
    return mean_interval(means, _rng()) if len(means) > 1 else None


def difference(study: Study, one: Snapshot, other: Snapshot, score: Score) -> Difference | None:
    """Return one - other; None unless both are complete and have the score."""
    pair = _paired(study, one, other, score.key)
    return None if pair is None else paired_comparison(score, *pair)


def paired_comparison(score: Score, here: dict[str, float], there: dict[str, float]) -> Difference:
    """Return here - there, both by subject: the mean, its interval and its p, not yet corrected."""
    by_subject = tuple(here[subject] - there[subject] for subject in here)
    mean = float(np.mean(by_subject))
    if len(here) == 1:
        return Difference(score, mean, None, by_subject)
    return Difference(score, mean, paired_difference(here, there, _rng()), by_subject, paired_p(by_subject))


def share_of_gain(study: Study, one: Method, other: Method, score: Score) -> Interval | None:
    """Return what `one` gained over its own untuned base, as a share of what `other` gained over its own.

    Both at their last snapshots; gains are means over subjects, and the interval draws subjects again. None where one
    of the four is missing, there is a single subject, or `other` gained nothing that is clear of zero.
    """
    ours, theirs = (_gains(study, method, score) for method in (one, other))
    if ours is None or theirs is None or len(ours) < 2 or ours.keys() != theirs.keys():
        return None
    rng = _rng()
    return ratio_of_means(ours, theirs, rng) if mean_interval(theirs, rng).low > 0 else None


def _gains(study: Study, method: Method, score: Score) -> dict[str, float] | None:
    """Return by subject the score at the method's last snapshot minus that of the untuned base of the same weights."""
    start = study.start(method)
    known = start is not None and not study.lacking(method)
    pair = _paired(study, study.last(method), (start, 0), score.key) if start and known else None
    return None if pair is None else {subject: value - pair[1][subject] for subject, value in pair[0].items()}


def _paired(study: Study, one: Snapshot, other: Snapshot, key: str) -> tuple[dict[str, float], dict[str, float]] | None:
    if any(study.missing(*snapshot) for snapshot in (one, other)):
        return None
    here, there = (study.means(*snapshot, key) for snapshot in (one, other))
    return (here, there) if here and here.keys() == there.keys() else None


def best(study: Study, score: Score) -> tuple[Method, ...]:
    """Return the tuned methods to mark at a score.

    Several subjects: the highest, if its paired difference to every other is settled. One subject: the highest as
    written, ties included, unless all are equal. Incomplete methods neither win nor compete.
    """
    means = {method: list(study.means(*study.last(method), score.key).values()) for method in study.complete}
    heights = {method: float(np.mean(values)) for method, values in means.items() if values}
    if len(heights) < 2:
        return ()
    top = max(heights, key=lambda method: heights[method])
    if len(study.subjects) > 1:
        rivals = [difference(study, study.last(top), study.last(method), score) for method in heights if method != top]
        return (top,) if all(rival is not None and rival.sign > 0 for rival in rivals) else ()
    tied = tuple(method for method in heights if _written(heights[method], score) == _written(heights[top], score))
    return () if len(tied) == len(heights) else tied


def _written(value: float, score: Score) -> float:
    return round(value / score.unit.size, score.unit.decimals)


def pairs(study: Study) -> Iterator[Pair]:
    """Yield tuned against untuned; each method against each reference; late against early steps.

    Of complete methods only: the others are not compared.
    """
    for method in study.complete:
        if start := study.start(method):
            yield study.last(method), (start, 0)
    seen = set()
    for reference in study.references:
        for method in study.complete:
            if method != reference and (pair := frozenset((method, reference))) not in seen:
                seen.add(pair)
                yield study.last(method), study.last(reference)
    for method in study.complete:
        whole = [step for step in study.steps(method) if not study.missing(method, step)]
        if len(whole) > 1:
            yield (method, whole[-1]), (method, whole[0])


def all_differences(study: Study, score: Score) -> dict[Pair, Difference]:
    """Return every difference of one score that can be made, corrected for how many there are."""
    found = {pair: difference(study, *pair, score) for pair in pairs(study)}
    return corrected({pair: one for pair, one in found.items() if one is not None})


def corrected(found: dict[Pair, Difference]) -> dict[Pair, Difference]:
    """Return the same differences with p after Holm, and the smallest that would be seen among so many.

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


def _rng() -> np.random.Generator:
    return np.random.default_rng(BOOTSTRAP_SEED)
