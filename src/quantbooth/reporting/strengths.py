"""Curves of two scores over the strength at which one tuned set is used, without tuning again."""

from collections.abc import Iterable

from quantbooth.reporting.areas import Curve, curve_through
from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Method, Study

__all__ = ["strength_curves"]

FEWEST = 2
"""Strengths that make a curve."""


def strength_curves(study: Study, x: str, y: str) -> tuple[Curve, ...]:
    """Return a curve for each tuning method whose last snapshot was scored at several strengths, by ascending strength.

    Pictures with other options, such as another negative prompt, are on another curve. Strengths by zone, those of the
    unconditional prediction alone and reward guidance are on none. Points that lack a subject or a seed are left out.
    Empty where the study lacks a score.
    """
    if not {x, y} <= {score.key for score in study.scores}:
        return ()
    alike: dict[tuple[frozenset[str], tuple[str, ...]], dict[float, Method]] = {}
    for method in study.tuned:
        at = study.at(*study.last(method))
        share = _only(_strength(result) for result in at)
        if share is not None:
            alike.setdefault((frozenset(result.run for result in at), method.options), {})[share] = method
    found = (_curve(study, methods, x, y) for methods in alike.values() if len(methods) >= FEWEST)
    return tuple(curve for curve in found if curve is not None and len(curve.x) >= FEWEST)


def _curve(study: Study, methods: dict[float, Method], x: str, y: str) -> Curve | None:
    shares = sorted(methods)
    main = methods.get(1.0, methods[shares[-1]])
    label = study.label(main).removesuffix(f"-x{shares[-1]:.15g}")
    snapshots = [(study.last(methods[share]), f"×{share:g}") for share in shares]
    return curve_through(study, main, label, snapshots, x, y)


def _strength(result: Result) -> float | None:
    """Return the strength of generated pictures; None where it is no single number."""
    share = result.settings.get("strength", 1.0)
    others = [result.settings.get(key) for key in ("unconditional_strength", "reward_guidance")]
    return float(share) if isinstance(share, int | float) and others == [None, None] else None


def _only(values: Iterable[float | None]) -> float | None:
    found = set(values)
    return found.pop() if len(found) == 1 else None
