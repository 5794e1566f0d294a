"""A study: comparable results for one table, and what is missing among them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from quantbooth.reporting.columns import SCORES, Score
from quantbooth.reporting.naming import BASE, Method, methods_of, natural
from quantbooth.reporting.results import Result
from quantbooth.reporting.statistics import subject_means
from quantbooth.reporting.style import BASE_STYLE, Style, assign_styles, family
from quantbooth.runtime.errors import UserError

__all__ = ["BASE", "Method", "Snapshot", "Study"]

REFERENCES = ("baseline", "float")
T = TypeVar("T")
Snapshot = tuple[Method, int]
"""A method at a step."""


@dataclass(frozen=True, eq=False)
class Study:
    """Results of one base, one scorer and one protocol, and the styles of methods with a config file.

    Attributes:
        compare_with: labels of the tuned methods that all others are compared with; empty: see `references`.

    Raises:
        UserError: there are none, two of them do not compare (naming both), one cell is given twice, or a label of
            `compare_with` is none of a tuned method.
    """

    results: tuple[Result, ...]
    styles: Mapping[str, Style] = field(default_factory=dict)
    compare_with: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.results:
            raise UserError("a report needs at least one result, got none; run quantbooth-evaluate first")
        _check_same_setting(self.results)
        _check_same_images(self.results)
        _ = self._by_method, self.references

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
    def methods(self) -> tuple[Method, ...]:
        """The base, then methods in the order of their files, each with its variants, then others by name."""
        return tuple(sorted(self._by_method, key=self._place))

    @cached_property
    def tuned(self) -> tuple[Method, ...]:
        """The methods."""
        return tuple(method for method in self.methods if not method.untuned)

    @cached_property
    def complete(self) -> tuple[Method, ...]:
        """The methods whose last snapshot lacks nothing."""
        return tuple(method for method in self.tuned if not self.lacking(method))

    @cached_property
    def references(self) -> tuple[Method, ...]:
        """The complete methods that others are compared with.

        Those of `compare_with`; else baseline and float; else the first with one set for all timesteps; else the first.
        """
        labels = {self.label(method): method for method in self.tuned}
        if unknown := [label for label in self.compare_with if label not in labels]:
            raise UserError(
                f"report.compare_with must name tuned methods of the table, found {', '.join(unknown)}; they are: "
                f"{', '.join(labels) or 'none'}"
            )
        if self.compare_with:
            return tuple(labels[label] for label in self.compare_with if labels[label] in self.complete)
        named = tuple(method for name in REFERENCES for method in self.complete if method.name == name)
        of_one_set = tuple(method for method in self.complete if method.name.startswith(f"{REFERENCES[0]}-"))
        return named or of_one_set[:1] or self.complete[:1]

    @cached_property
    def _by_method(self) -> dict[Method, dict[int, list[Result]]]:
        """Results by method and step, lower seeds first."""
        found: dict[Method, dict[int, list[Result]]] = {}
        for result, method in methods_of(self.results).items():
            found.setdefault(method, {}).setdefault(result.step, []).append(result)
        return {a: {s: sorted(of, key=lambda r: r.seed) for s, of in sorted(by.items())} for a, by in found.items()}

    def _place(self, method: Method) -> tuple[float, str, list[tuple[float, str]]]:
        kin = family(method.name, self.styles)
        order = BASE_STYLE.order if method.untuned else self.styles[kin].order if kin else float("inf")
        return order, "" if kin else method.name, natural(" ".join(method.options))

    @cached_property
    def _styles(self) -> dict[Method, Style]:
        worn = assign_styles([(method.name, bool(method.options)) for method in self.tuned], self.styles)
        return {method: BASE_STYLE for method in self.methods if method.untuned} | dict(
            zip(self.tuned, worn, strict=True)
        )

    def style(self, method: Method) -> Style:
        """Return the method's colour and marker."""
        return self._styles[method]

    def label(self, method: Method) -> str:
        """Return the method's name, with its weights and options where the name alone is ambiguous."""
        named = self.styles.get(method.name)
        name = BASE_STYLE.label if method.untuned else (named.label if named else "") or method.name
        quants = {other.quant for other in self.methods if other.name == method.name}
        return " ".join([name, *([method.quant] if len(quants) > 1 else []), *method.options])

    def start(self, method: Method) -> Method | None:
        """Return the untuned base of the method's weights; None where it was not scored."""
        bases = [
            o for o in self.methods if o.untuned and o.quant == method.quant and set(o.options) <= set(method.options)
        ]
        return max(bases, key=lambda other: len(other.options), default=None)

    def steps(self, method: Method) -> tuple[int, ...]:
        """Return the method's snapshots."""
        return tuple(self._by_method[method])

    def last(self, method: Method) -> Snapshot:
        """Return the method's last snapshot: the one that is reported (never one chosen by its scores)."""
        return method, self.steps(method)[-1]

    def at(self, method: Method, step: int, subject: str | None = None) -> tuple[Result, ...]:
        """Return the method's results at a snapshot, of one subject or of all, by seed."""
        return tuple(r for r in self._by_method.get(method, {}).get(step, []) if subject in (None, r.subject))

    def missing(self, method: Method, step: int) -> tuple[str, ...]:
        """Return what the method lacks at a snapshot of the study's subjects and seeds, in words."""
        seeds = {one: {result.seed for result in self.at(method, step, one)} for one in self.subjects}
        absent = {one: () if method.untuned else tuple(sorted(set(self.seeds) - has)) for one, has in seeds.items()}
        if all(seeds.values()) and len(self.subjects) > 1 and len(alike := set(absent.values())) == 1:
            (same,) = alike
            return (f"seed {', '.join(map(str, same))} of every subject",) if same else ()
        return tuple(
            f"{one} seed {', '.join(map(str, absent[one]))}" if has else one
            for one, has in seeds.items()
            if absent[one] or not has
        )

    def lacking(self, method: Method) -> tuple[str, ...]:
        """Return what the method's row lacks: subjects and seeds at its last snapshot, later ones never scored."""
        _, step = self.last(method)
        later = [r for r in self.at(method, step) if r.kept_until is not None and r.kept_until > step]
        unscored = _unique(f"{r.subject} step {r.kept_until:,} (only {step:,} is scored)" for r in later)
        return self.missing(method, step) + unscored

    def means(self, method: Method, step: int, key: str, subject: str | None = None) -> dict[str, float]:
        """Return mean scores by subject: over images, then over seeds; undefined images are left out."""
        found = [result for result in self.at(method, step, subject) if key in result.means]
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
