"""A study: results that may stand in one table, and what is missing among them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from quantbooth.reporting.columns import SCORES, Score
from quantbooth.reporting.results import Result
from quantbooth.reporting.statistics import subject_means
from quantbooth.runtime.errors import UserError

__all__ = ["BASE", "Arm", "Study"]

BASE = "base"
SHORT = 8
T = TypeVar("T")
ORDER = (BASE, "float", "lora", "qlora", "baseline", "s1", "s2", "s2-apart", "tas")


@dataclass(frozen=True)
class Arm:
    """One row of the table: a method on weights of one kind."""

    method: str
    quant: str

    @property
    def untuned(self) -> bool:
        """Whether this is the base itself."""
        return self.method == BASE


@dataclass(frozen=True, eq=False)
class Study:
    """Results of one base, one scorer and one protocol.

    Raises:
        UserError: there are none, two of them do not compare (naming both), or one cell is given twice.
    """

    results: tuple[Result, ...]

    def __post_init__(self) -> None:
        if not self.results:
            raise UserError("a report needs at least one result, got none; run quantbooth-evaluate first")
        _check_same_setting(self.results)
        _check_same_weights(self.results)
        _check_same_images(self.results)
        _check_once(self.results)

    @cached_property
    def subjects(self) -> tuple[str, ...]:
        """In order of first appearance."""
        return _unique(result.subject for result in self.results)

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Tuning seeds; the untuned base needs none."""
        tuned = [result.seed for result in self.results if not result.untuned]
        return tuple(sorted(set(tuned or [result.seed for result in self.results])))

    @cached_property
    def scores(self) -> tuple[Score, ...]:
        """The scores these results have."""
        return tuple(score for score in SCORES if score.key in self.results[0].rows)

    @cached_property
    def arms(self) -> tuple[Arm, ...]:
        """The base, float and the strategies in their usual order, each with its variants, then others as they come."""
        return tuple(sorted(self._by_arm, key=lambda arm: _place(arm.method)))

    @cached_property
    def _by_arm(self) -> dict[Arm, dict[int, list[Result]]]:
        """Results by arm and step, lower seeds first."""
        found: dict[Arm, dict[int, list[Result]]] = {}
        for result in self.results:
            found.setdefault(_arm(result), {}).setdefault(result.step, []).append(result)
        return {a: {s: sorted(of, key=lambda r: r.seed) for s, of in sorted(by.items())} for a, by in found.items()}

    def label(self, arm: Arm) -> str:
        """The arm's name, with its weights where the method alone would not tell it from another."""
        name = "untuned base" if arm.untuned else arm.method
        alone = sum(other.method == arm.method for other in self.arms) == 1
        return name if alone else f"{name} {arm.quant}"

    def steps(self, arm: Arm) -> tuple[int, ...]:
        """The arm's snapshots."""
        return tuple(self._by_arm[arm])

    def at(self, arm: Arm, step: int, subject: str | None = None) -> tuple[Result, ...]:
        """The arm's results at a snapshot, of one subject or of all, by seed."""
        return tuple(r for r in self._by_arm.get(arm, {}).get(step, []) if subject in (None, r.subject))

    def missing(self, arm: Arm, step: int) -> tuple[str, ...]:
        """What the arm lacks at a snapshot of the study's subjects and seeds, in words."""
        lacking = []
        for subject in self.subjects:
            seeds = {result.seed for result in self.at(arm, step, subject)}
            absent = [] if arm.untuned else [seed for seed in self.seeds if seed not in seeds]
            if not seeds:
                lacking.append(subject)
            elif absent:
                lacking.append(f"{subject} seed {', '.join(map(str, absent))}")
        return tuple(lacking)

    def lacking(self, arm: Arm) -> tuple[str, ...]:
        """What the arm's row lacks: subjects and seeds at its last snapshot, and later ones that were never scored."""
        step = self.steps(arm)[-1]
        later = [r for r in self.at(arm, step) if r.kept_until is not None and r.kept_until > step]
        unscored = _unique(f"{r.subject} step {r.kept_until:,} (only {step:,} is scored)" for r in later)
        return self.missing(arm, step) + unscored

    def means(self, arm: Arm, step: int, key: str) -> dict[str, float]:
        """Mean score by subject: over the images of each seed, then over seeds; undefined images are left out."""
        found = [result for result in self.at(arm, step) if key in result.means]
        return subject_means([result.means[key] for result in found], [result.subject for result in found])


def _place(method: str) -> int:
    """The place of the method, or of the one it is a variant of."""
    known = [name for name in ORDER if method == name or method.startswith(f"{name}-")]
    return ORDER.index(max(known, key=len)) if known else len(ORDER)


def _arm(result: Result) -> Arm:
    return Arm(BASE if result.untuned else result.method, result.quant)


def _unique(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))


def _check_same_setting(results: Sequence[Result]) -> None:
    first = results[0]
    for other in results[1:]:
        for name in ("base", "scorer", "protocol"):
            one, two = getattr(first, name), getattr(other, name)
            if one != two:
                raise UserError(
                    f"one report needs one {name}, got {one!r} ({first.run}) and {two!r} ({other.run}); "
                    "report them apart"
                )
        if differing := sorted({s.key for s in SCORES if (s.key in first.rows) != (s.key in other.rows)}):
            raise UserError(
                f"one report needs the same scores of every result, but only one of {first.run} and {other.run} "
                f"has {', '.join(differing)}; evaluate both alike"
            )


def _check_same_weights(results: Sequence[Result]) -> None:
    """One quantized base for each name of weights: two of one name would be averaged over subjects unnoticed."""
    known: dict[str, Result] = {}
    for result in (result for result in results if result.weights):
        twin = known.setdefault(result.quant, result)
        if twin.weights != result.weights:
            raise UserError(
                f"one report needs one quantized base for {result.quant}, got {twin.weights[:SHORT]} ({twin.run}) and "
                f"{result.weights[:SHORT]} ({result.run}); report them apart"
            )


def _check_same_images(results: Sequence[Result]) -> None:
    """Equal prompts and noise for one subject; as many images from the same noise seeds for another."""
    by_subject: dict[str, Result] = {}
    for result in results:
        twin = by_subject.setdefault(result.subject, result)
        if odd := sorted(twin.images_asked ^ result.images_asked):
            prompt, _, noise = odd[0]
            raise UserError(
                f"one report needs one protocol, but of {twin.run} ({len(twin.rows)} images of {twin.subject}) and "
                f"{result.run} ({len(result.rows)}) only one has {prompt!r} with noise seed {noise}; report them apart"
            )
    one, *others = by_subject.values()
    for two in others:
        if _shape(one) != _shape(two):
            raise UserError(
                f"one report needs one protocol, got {_told(one)} from {one.run} and {_told(two)} from {two.run}; "
                "report them apart"
            )


def _shape(result: Result) -> tuple[int, frozenset[int]]:
    return len(result.rows), frozenset(result.rows["noise_seed"])


def _told(result: Result) -> str:
    count, noises = _shape(result)
    return f"{count} images of {result.subject} over {len(noises)} noise seeds"


def _check_once(results: Sequence[Result]) -> None:
    cells: dict[tuple[Arm, str, int, int], Result] = {}
    for result in results:
        cell = (_arm(result), result.subject, result.seed, result.step)
        twin = cells.setdefault(cell, result)
        if twin is not result:
            raise UserError(
                f"each method, subject, seed and step must be given once, got {result.method} {result.quant} on "
                f"{result.subject}, seed {result.seed}, step {result.step} from {twin.run} and {result.run}"
            )
