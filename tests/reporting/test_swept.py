"""Rows of a sweep are named by what is swept, only where they would share a cell, and by nothing else."""

from collections.abc import Callable
from typing import Any

from quantbooth.reporting.results import Result
from quantbooth.reporting.swept import name_by_what_is_swept

Make = Callable[..., Result]


def settings(interval: list[int], **more: Any) -> dict[str, Any]:
    given = {"strategy": {"_target_": "s1", "interval": interval}, "seed": 0, "paths": {"outputs": f"out{interval}"}}
    return given | {"locator": {"timesteps": interval}} | more


def named(results: list[Result], kept: list[dict[str, Any]]) -> list[str]:
    return [result.method for result in name_by_what_is_swept(results, kept)]


def test_intervals_name_the_rows_and_the_untuned_base_is_left_alone(make: Make) -> None:
    results = [make("base", step=0), *(make("s1", run=run) for run in ("a", "b"))]
    kept = [{}, settings([0, 200]), settings([200, 750])]
    assert named(results, kept) == ["base", "s1 interval=[0,200]", "s1 interval=[200,750]"]


def test_a_row_that_stands_alone_keeps_its_name(make: Make) -> None:
    results = [make("s1", run="a"), make("s2", run="b"), make("s1", run="c", seed=1), make("s1", "toy_duck", run="d")]
    kept = [settings([0, 200]), settings([0, 300]), settings([0, 400]), settings([0, 500])]
    assert named(results, kept) == ["s1", "s2", "s1", "s1"]


def test_all_subjects_and_snapshots_of_a_setting_have_one_name(make: Make) -> None:
    results = [
        *(make("s1", run="a", step=step) for step in (100, 400)),
        *(make("s1", run="b", step=step) for step in (100, 400)),
        make("s1", "toy_duck", run="c"),
    ]
    kept = [settings([0, 200])] * 2 + [settings([0, 300])] * 2 + [settings([0, 300], subject={"name": "toy_duck"})]
    assert named(results, kept) == ["s1 interval=[0,200]"] * 2 + ["s1 interval=[0,300]"] * 3


def test_keys_that_agree_are_named_once_and_equal_last_parts_in_full(make: Make) -> None:
    results = [make("lora", run=run) for run in ("a", "b", "c")]
    kept: list[dict[str, Any]] = [
        {"tuner": {"rank": rank, "learner": {"rank": rank}, "steps": 4}, "sampler": {"steps": steps}}
        for rank, steps in ((2, 5), (4, 5), (4, 9))
    ]
    kept[2]["tuner"]["steps"] = 8
    kept[2]["sampler"]["steps"] = 5
    kept[0]["sampler"]["steps"] = 7
    assert named(results, kept)[2] == "lora rank=4 tuner.steps=8 sampler.steps=5"


def test_runs_without_a_difference_are_left_to_be_refused(make: Make) -> None:
    results = [make("s1", run=run) for run in ("a", "b")]
    assert named(results, [settings([0, 200])] * 2) == ["s1", "s1"]
    assert named(results, [{}, {}]) == ["s1", "s1"]
