"""The map of intervals learned in and used in: cells of methods with one set, a mean over subjects in each."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import pytest

from quantbooth.reporting.heat_map import heat_map, interval_map, intervals_of, maps_left_out
from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Study
from quantbooth.timesteps.strategies import Strategy, baseline, graded, s1, s2

Make = Callable[..., Result]
ZONES = {"clean_up": [0, 200], "content": [200, 1000]}
FIRST, LATER = s1([0, 500], "tuned", 1000), s1([500, 1000], "base", 1000)


@pytest.mark.parametrize(
    ("strategy", "strength", "found"),
    [
        (FIRST, 1.0, ((0, 500), (0, 1000))),
        (LATER, 1, ((500, 1000), (500, 1000))),
        (baseline(1000), {"200-400": 1, "elsewhere": 0}, ((0, 1000), (200, 400))),
        (LATER, {"0-700": 1, "elsewhere": 0}, ((500, 1000), (500, 700))),
        (FIRST, 0.5, None),
        (FIRST, {"200-400": 0.5, "elsewhere": 0}, None),
        (FIRST, {"200-400": 1, "500-600": 1, "elsewhere": 0}, None),
        (FIRST, {"200-400": 1}, None),
        (FIRST, {"content": 1, "elsewhere": 0}, None),
        (s2(ZONES, False, 1000), 1.0, None),
        (graded(0.5, 1000), 1.0, None),
        (FIRST, None, None),
    ],
)
def test_intervals_are_those_of_one_set_at_full_strength(strategy: Strategy, strength: object, found: object) -> None:
    assert intervals_of(strategy, strength) == found


def study(make: Make, strategies: dict[str, Strategy]) -> Study:
    results = []
    for subject, more in (("mug", 0.0), ("duck", 0.02)):
        for number, (name, strategy) in enumerate(strategies.items()):
            for used in (1.0, {"0-500": 1, "elsewhere": 0}):
                method = f"{name}{'' if used == 1 else '-x'}"
                score = 0.5 + 0.1 * number + more - (0.2 if method.endswith("x") else 0)
                settings = {"strength": used}
                results.append(make(method, subject, local_clip_i=score, strategy=strategy, settings=settings))
    return Study(tuple(results))


def test_each_cell_is_the_mean_over_subjects(make: Make) -> None:
    text = heat_map(study(make, {"s1": FIRST, "baseline": baseline(1000)}))
    assert text is not None
    ElementTree.fromstring(text)
    (told,) = re.findall(r"<desc[^>]*>(.*?)</desc>", text)
    words = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    assert "learned in 0-500, used in 0-1000: " in told and "local CLIP-I 0.510" in told
    for cell in (".510", ".310", ".610", ".410"):
        assert cell in words
    assert words.count("0-500") == 2 * words.count("learned in")


def test_less_than_two_intervals_of_a_kind_make_no_map(make: Make) -> None:
    assert heat_map(study(make, {"s1": FIRST})) is None
    assert heat_map(Study((make("base", "mug", step=0),))) is None


@pytest.mark.parametrize("outside", ["base", "tuned"])
def test_intervals_that_are_used_in_one_way_are_shown_against_scores(make: Make, outside: str) -> None:
    results = []
    for subject, more in (("mug", 0.0), ("duck", 0.02)):
        for number in range(4):
            strategy = s1([250 * number, 250 * number + 250], outside, 1000)
            score = 0.5 + 0.1 * number + more
            results.append(make(f"s1-{number}", subject, local_clip_i=score, strategy=strategy, settings={}))
    one = Study(tuple(results))
    assert heat_map(one) is None
    text = interval_map(one)
    assert text is not None
    ElementTree.fromstring(text)
    words = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    assert [word for word in words if re.fullmatch(r"\d+-\d+", word)] == ["0-250", "250-500", "500-750", "750-1000"]
    assert {".510", ".610", ".710", ".810"} <= set(words) and "local CLIP-I" in words
    assert interval_map(Study(tuple(result for result in results if result.method < "s1-2"))) is None


def test_what_has_no_cell_is_told_with_its_reason(make: Make) -> None:
    cells = {f"s1-{number}": s1([250 * number, 250 * number + 250], "base", 1000) for number in range(4)}
    others = {
        "union": s1([[0, 200], [600, 800]], "base", 1000),
        "experts": s2(ZONES, False, 1000),
        "graded": graded(0.5, 1000),
        "again": cells["s1-2"],
    }
    every = {**cells, **others, "half": cells["s1-1"]}
    results = [
        make(name, strategy=strategy, settings={"strength": 0.5 if name == "half" else 1.0})
        for name, strategy in every.items()
    ]
    told = maps_left_out(Study(tuple(results)))
    for name, why in (
        ("union", "one set of several intervals"),
        ("experts", "more sets than one"),
        ("graded", "a strength that falls with noise"),
        ("half", "used in several intervals, or at another strength"),
    ):
        assert f"Left out: {name} ({why})." in told
    assert "Left out: s1-2 (the intervals of again)." in told and told.count("Left out") == 5
    assert maps_left_out(Study(tuple(result for result in results if result.method in cells))) == ""


def test_a_grid_of_both_intervals_has_no_second_map(make: Make) -> None:
    assert (
        interval_map(study(make, {"s1": FIRST, "late": s1([500, 1000], "tuned", 1000), "all": baseline(1000)})) is None
    )
