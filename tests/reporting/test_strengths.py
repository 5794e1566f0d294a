"""Curves over the strength of what was tuned: their points, their order, what is on none, and their plot."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from quantbooth.reporting.plots import tradeoff
from quantbooth.reporting.results import Result
from quantbooth.reporting.strengths import strength_curves
from quantbooth.reporting.study import Study

Make = Callable[..., Result]
XY = ("oracle_prompt", "oracle_subject")


def at(make: Make, strength: Any = 1.0, method: str = "s1", run: str = "one", **given: Any) -> Result:
    name = method if strength == 1.0 else f"{method}-x{strength}"
    settings = {"strength": strength, "unconditional_strength": given.pop("unconditional", None)}
    return make(name, run=run, settings=settings, **given)


def study(make: Make) -> Study:
    scored = {1.5: (0.7, 0.6), 0.4: (0.95, 0.2), 1.0: (0.9, 0.5)}
    results = [at(make, s, oracle_prompt=prompt, oracle_subject=subject) for s, (prompt, subject) in scored.items()]
    return Study((make("base", step=0, oracle_prompt=0.99, oracle_subject=0.1), *results))


def test_points_ascend_from_the_untuned_base(make: Make) -> None:
    (curve,) = strength_curves(study(make), *XY)
    assert curve.marks == ("", "×0.4", "×1", "×1.5")
    assert curve.x == pytest.approx((0.99, 0.95, 0.9, 0.7))
    assert curve.y == pytest.approx((0.1, 0.2, 0.5, 0.6))
    assert curve.label == "s1"


def test_strengths_of_two_runs_are_two_curves_and_one_strength_is_none(make: Make) -> None:
    two = [at(make, s, run=run, method=run) for run in ("a", "b") for s in (0.5, 1.0)]
    found = strength_curves(Study((*two, at(make, method="c", run="c"))), *XY)
    assert [curve.label for curve in found] == ["a", "b"]
    assert all(curve.marks == ("×0.5", "×1") for curve in found)


@pytest.mark.parametrize("option", ["negative_prompt", "sampler"])
def test_pictures_with_another_option_are_another_curve(make: Make, option: str) -> None:
    values: dict[str, list[Any]] = {"negative_prompt": ["a", "b"], "sampler": [{"steps": 5}, {"steps": 9}]}
    both = [
        make("s1" if s == 1 else f"s1-x{s}", run="one", settings={"strength": s, option: value}, oracle_subject=subject)
        for value, subject in zip(values[option], (0.2, 0.6), strict=True)
        for s in (0.5, 1.0)
    ]
    found = strength_curves(Study(tuple(both)), *XY)
    assert [(curve.y[-1], curve.marks) for curve in found] == [(0.2, ("×0.5", "×1")), (0.6, ("×0.5", "×1"))]


def test_strengths_by_zone_and_of_guidance_are_on_no_curve(make: Make) -> None:
    others = (
        at(make, {"content": 0.5}, method="s2"),
        make("s2-u0", run="one", settings={"strength": 1.0, "unconditional_strength": 0.0}),
        make("s2-r3", run="one", settings={"strength": 0.5, "reward_guidance": 3.0}),
    )
    assert strength_curves(Study((at(make, method="s2"), *others)), *XY) == ()


def test_a_strength_that_lacks_a_subject_is_left_out(make: Make) -> None:
    results = [at(make, s, subject=name, run=name) for name in ("mug", "duck") for s in (0.5, 0.8, 1.0)]
    (curve,) = strength_curves(Study(tuple(results[1:])), *XY)
    assert curve.marks == ("×0.8", "×1") and curve.spans is not None


def test_the_plot_names_strengths_and_stands_only_where_there_are_several(make: Make, four: Study) -> None:
    text = tradeoff(study(make), *XY, strength_curves) or ""
    assert {"×0.4", "×1", "s1 ×1.5"} <= set(re.findall(r"<text[^>]*>([^<]*)</text>", text))
    assert "at ×" in text
    assert tradeoff(four, *XY, strength_curves) is None
