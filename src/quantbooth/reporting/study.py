"""A study: results that fit into one table, and what is missing among them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from quantbooth.reporting.columns import SCORES, Score
from quantbooth.reporting.naming import BASE, Arm, arms_of, natural
from quantbooth.reporting.results import Result
from quantbooth.reporting.statistics import subject_means
from quantbooth.reporting.style import BASE_LOOK, Look, dress, family
from quantbooth.runtime.errors import UserError

__all__ = ["BASE", "Arm", "Snapshot", "Study"]

T = TypeVar("T")
Snapshot = tuple[Arm, int]
"""A method after so many steps."""


@dataclass(frozen=True, eq=False)
class Study:
    """Results of one base, one scorer and one protocol, and the looks of methods that have a file.

    Raises:
        UserError: there are none, two of them do not compare (naming both), or one cell is given twice.
    """

    results: tuple[Result, ...]
    looks: Mapping[str, Look] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.results:
            raise UserError("a report needs at least one result, got none; run quantbooth-evaluate first")
        _check_same_setting(self.results)
        _check_same_images(self.results)
        _ = self._by_arm

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
        """The base, then methods in the order of their files, each with its variants, then others by name."""
        return tuple(sorted(self._by_arm, key=self._place))

    @cached_property
    def tuned(self) -> tuple[Arm, ...]:
        """The methods."""
        return tuple(arm for arm in self.arms if not arm.untuned)

    @cached_property
    def complete(self) -> tuple[Arm, ...]:
        """The methods whose last snapshot lacks nothing."""
        return tuple(arm for arm in self.tuned if not self.lacking(arm))

    @cached_property
    def _by_arm(self) -> dict[Arm, dict[int, list[Result]]]:
        """Results by arm and step, lower seeds first."""
        found: dict[Arm, dict[int, list[Result]]] = {}
        for result, arm in arms_of(self.results).items():
            found.setdefault(arm, {}).setdefault(result.step, []).append(result)
        return {a: {s: sorted(of, key=lambda r: r.seed) for s, of in sorted(by.items())} for a, by in found.items()}

    def _place(self, arm: Arm) -> tuple[float, str, list[tuple[float, str]]]:
        kin = family(arm.method, self.looks)
        order = BASE_LOOK.order if arm.untuned else self.looks[kin].order if kin else float("inf")
        return order, "" if kin else arm.method, natural(" ".join(arm.options))

    @cached_property
    def _dressed(self) -> dict[Arm, Look]:
        worn = dress([(arm.method, bool(arm.options)) for arm in self.tuned], self.looks)
        return {arm: BASE_LOOK for arm in self.arms if arm.untuned} | dict(zip(self.tuned, worn, strict=True))

    def look(self, arm: Arm) -> Look:
        """Return the arm's colour and marker."""
        return self._dressed[arm]

    def label(self, arm: Arm) -> str:
        """Return the arm's name, with its weights and options where the method alone would not tell it from another."""
        named = self.looks.get(arm.method)
        name = BASE_LOOK.label if arm.untuned else (named.label if named else "") or arm.method
        quants = {other.quant for other in self.arms if other.method == arm.method}
        return " ".join([name, *([arm.quant] if len(quants) > 1 else []), *arm.options])

    def start(self, arm: Arm) -> Arm | None:
        """Return the untuned base of the arm's weights; None where it was not scored."""
        bases = [o for o in self.arms if o.untuned and o.quant == arm.quant and set(o.options) <= set(arm.options)]
        return max(bases, key=lambda other: len(other.options), default=None)

    def steps(self, arm: Arm) -> tuple[int, ...]:
        """Return the arm's snapshots."""
        return tuple(self._by_arm[arm])

    def last(self, arm: Arm) -> Snapshot:
        """Return the arm's last snapshot: the one that is reported (never one chosen by its scores)."""
        return arm, self.steps(arm)[-1]

    def at(self, arm: Arm, step: int, subject: str | None = None) -> tuple[Result, ...]:
        """Return the arm's results at a snapshot, of one subject or of all, by seed."""
        return tuple(r for r in self._by_arm.get(arm, {}).get(step, []) if subject in (None, r.subject))

    def missing(self, arm: Arm, step: int) -> tuple[str, ...]:
        """Return what the arm lacks at a snapshot of the study's subjects and seeds, in words."""
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
        """Return what the arm's row lacks: subjects and seeds at its last snapshot, later ones never scored."""
        _, step = self.last(arm)
        later = [r for r in self.at(arm, step) if r.kept_until is not None and r.kept_until > step]
        unscored = _unique(f"{r.subject} step {r.kept_until:,} (only {step:,} is scored)" for r in later)
        return self.missing(arm, step) + unscored

    def means(self, arm: Arm, step: int, key: str, subject: str | None = None) -> dict[str, float]:
        """Return mean scores by subject: over images, then over seeds; undefined images are left out."""
        found = [result for result in self.at(arm, step, subject) if key in result.means]
        return subject_means([result.means[key] for result in found], [result.subject for result in found])


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
                    "make a report of each"
                )
        if differing := sorted({s.key for s in SCORES if (s.key in first.rows) != (s.key in other.rows)}):
            raise UserError(
                f"one report needs the same scores of every result, but only one of {first.run} and {other.run} "
                f"has {', '.join(differing)}; evaluate both alike"
            )


def _check_same_images(results: Sequence[Result]) -> None:
    """Require equal prompts and noise for one subject, as many images from the same noise seeds for another."""
    by_subject: dict[str, Result] = {}
    for result in results:
        twin = by_subject.setdefault(result.subject, result)
        if odd := sorted(twin.images_asked ^ result.images_asked):
            prompt, _, noise = odd[0]
            raise UserError(
                f"one report needs one protocol, but of {twin.run} ({len(twin.rows)} images of {twin.subject}) and "
                f"{result.run} ({len(result.rows)}) only one has {prompt!r} with noise seed {noise}; "
                "make a report of each"
            )
    one, *others = by_subject.values()
    for two in others:
        if (len(one.rows), set(one.rows["noise_seed"])) != (len(two.rows), set(two.rows["noise_seed"])):
            raise UserError(
                f"one report needs one protocol, got {_extent(one)} from {one.run} and {_extent(two)} from {two.run}; "
                "make a report of each"
            )


def _extent(result: Result) -> str:
    return f"{len(result.rows)} images of {result.subject} over {result.rows['noise_seed'].nunique()} noise seeds"
