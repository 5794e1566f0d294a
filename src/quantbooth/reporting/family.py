"""Which snapshots are held against which, and what may be claimed when all these comparisons are made at once."""

from collections.abc import Iterator
from dataclasses import replace

from quantbooth.metrics.comparisons import holm, smallest_seen
from quantbooth.reporting.claims import FEWEST, Difference, Snapshot, difference_between, last
from quantbooth.reporting.columns import Score
from quantbooth.reporting.study import BASE, Arm, Study

__all__ = ["Pair", "corrected", "family", "pairs"]

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
