"""Names of rows: the options that tell results of one method apart, from the settings of their runs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from quantbooth.reporting.naming import Method, distinguishing_options
from quantbooth.reporting.results import Result
from quantbooth.reporting.score_table import score_table
from quantbooth.reporting.study import Study
from quantbooth.reporting.style import Style
from quantbooth.runtime.errors import UserError

Make = Callable[..., Result]


def _settings(interval: list[int], **more: Any) -> dict[str, Any]:
    """Options as scores keep them; the rate is copied by the optimizer."""
    rate = more.get("rate", 0.1)
    return {
        "calibration": {"name": more.get("calibration", "mse"), "search": {"_target_": "a.class"}},
        "tuner": {"learning_rate": rate},
        "strategy": {"_target_": f"code.{interval[0]}", "interval": interval},
        "optimizer": {"lr": rate},
        "paths": {"outputs": f"somewhere/{interval[0]}"},
    }


def test_a_sweep_names_its_rows_by_what_was_swept(make: Make, styles: dict[str, Style]) -> None:
    results = [
        make("s1", subject, run=f"run-{low}-{subject}", settings=_settings([low, high]))
        for subject in ("mug", "duck")
        for low, high in ((750, 1000), (0, 200), (200, 750))
    ]
    study = Study((*results, make("baseline", "mug", settings=_settings([0, 1000]))), styles)
    rows = ("baseline", "s1 interval=[0,200]", "s1 interval=[200,750]", "s1 interval=[750,1000]")
    assert score_table(study).labels == rows
    assert len({(study.style(method).colour, study.style(method).marker) for method in study.methods}) == 4


def test_two_options_swept_at_once_are_both_named_and_copies_are_not(make: Make) -> None:
    results = [
        make("s1", run=f"{low} {rate}", settings=_settings([low, 1000], rate=rate))
        for low in (0, 5)
        for rate in (0.1, 0.2)
    ]
    assert [method.options for method in Study(tuple(results)).methods] == [
        (f"learning_rate={rate}", f"interval=[{low},1000]") for rate in (0.1, 0.2) for low in (0, 5)
    ]


def test_a_negative_prompt_names_its_rows_those_of_the_untuned_base_too(make: Make) -> None:
    results = [
        make(method, step=step, run=method, settings=_settings([0, 200]) | {"negative_prompt": negative})
        for method, step in (("base", 0), ("s1", 400))
        for negative in (None, "red", "a blue rug")
    ]
    assert [(method.name, *method.options) for method in Study(tuple(results)).methods] == [
        (name, *options)
        for name in ("base", "s1")
        for options in ((), ("negative_prompt=a blue rug",), ("negative_prompt=red",))
    ]


def test_options_of_tuning_never_name_the_untuned_base(make: Make) -> None:
    found = [_settings([0, 200], rate=0.2) | {"sampler": {"steps": 4}}, _settings([0, 900]) | {"sampler": {"steps": 8}}]
    study = Study(tuple(make("base", step=0, run=str(place), settings=one) for place, one in enumerate(found)))
    assert [method.options for method in study.methods] == [("steps=4",), ("steps=8",)]


def test_another_identifier_names_its_row(make: Make) -> None:
    words = [make("s1", run=word, settings=_settings([0, 1]) | {"base": {"identifier": word}}) for word in ("sks", "x")]
    assert [method.options for method in Study(tuple(words)).methods] == [("identifier=sks",), ("identifier=x",)]


def test_the_same_cell_twice_is_refused_whatever_else_differs(make: Make) -> None:
    one, other = (make("s1", run=name, settings=_settings([0, 200]) | {"paths": {"outputs": name}}) for name in "ab")
    with pytest.raises(UserError, match="s1 w4 on toy_mug, seed 0, step 400 from a and b"):
        Study((one, other))


def test_settings_that_differ_without_a_shared_cell_name_nothing(make: Make) -> None:
    study = Study((make("s1", "mug", settings=_settings([0, 1])), make("s1", "duck", settings=_settings([0, 2]))))
    assert study.methods == (Method("s1", "w4"),)


def test_bases_quantized_in_two_ways_are_told_apart_and_each_method_starts_at_its_own(make: Make) -> None:
    results = []
    for name, weights in (("mse", "a" * 64), ("minmax", "b" * 64)):
        settings = _settings([0, 1000], calibration=name)
        results += [
            make(m, step=s, weights=weights, settings=settings, run=f"{m}-{name}") for m, s in (("base", 0), ("s1", 9))
        ]
    study = Study(tuple(results))
    assert [study.label(method) for method in study.methods] == [
        f"{label} w4 calibration={name}" for label in ("untuned base", "s1") for name in ("mse", "minmax")
    ]
    assert [study.start(method) for method in study.tuned] == [method for method in study.methods if method.untuned]


def test_a_base_drawn_in_two_ways_starts_the_methods_drawn_alike(make: Make) -> None:
    results = [
        make(m, step=s, run=f"{m}-{steps}", settings=_settings([0, 1000]) | {"sampler": {"steps": steps}})
        for steps in (25, 50)
        for m, s in (("base", 0), ("s1", 9))
    ]
    study = Study(tuple(results))
    assert [(method.options, study.start(method)) for method in study.tuned] == [
        ((f"steps={n}",), Method("base", "w4", (f"steps={n}",))) for n in (25, 50)
    ]


def test_options_of_one_name_in_two_groups_are_named_in_full() -> None:
    settings = [{"tuner.steps": f"{a}", "sampler.steps": f"{b}"} for a in (1, 2) for b in (3, 4)]
    assert distinguishing_options(settings)[0] == ("tuner.steps=1", "sampler.steps=3")
    assert distinguishing_options(settings[:2]) == [("steps=3",), ("steps=4",)]


def test_runs_that_share_no_step_are_two_rows_too(make: Make) -> None:
    results = [make("s1", step=n, run=f"run-{n}", settings={"tuner": {"steps": n}}) for n in (200, 400)]
    assert [method.options for method in Study(tuple(results)).methods] == [("steps=200",), ("steps=400",)]


def test_snapshots_of_one_run_are_one_row_though_it_went_on_elsewhere(make: Make) -> None:
    where = {"accelerator": "cpu", "precision": "32-true"}
    results = [make("s1", step=1, run="a", settings={"trainer": where, "sampler": {"steps": 2}})]
    results += [make("s1", step=2, run="a", settings={"trainer": where | {"accelerator": "gpu"}})]
    assert Study(tuple(results)).methods == (Method("s1", "w4"),)


def test_what_changes_with_an_option_of_another_group_is_named_too() -> None:
    settings = [{"tuner.rank": "2", "sampler.steps": "7"}, {"tuner.rank": "4", "sampler.steps": "5"}]
    assert distinguishing_options(settings) == [("rank=2", "steps=7"), ("rank=4", "steps=5")]


def test_what_a_choice_brings_along_is_not_named() -> None:
    settings = [{"calibration.search.lp_norm": "2.4", "calibration.name": "mse"}, {"calibration.name": "minmax"}]
    assert distinguishing_options(settings) == [("calibration=mse",), ("calibration=minmax",)]
    assert distinguishing_options([settings[0]] * 2) == [(), ()]


def test_results_stay_as_they_were(make: Make) -> None:
    result = make("s1", settings=_settings([0, 200]))
    assert Study((dataclasses.replace(result),)).label(Method("s1", "w4")) == "s1"
