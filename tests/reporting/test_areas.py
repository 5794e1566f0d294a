"""Dominated areas of trade-off curves, against areas worked out by hand."""

from collections.abc import Callable

import pytest

from quantbooth.reporting.areas import area_sheet, explained
from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Study

Make = Callable[..., Result]


def results(make: Make, subject: str, shift: float) -> list[Result]:
    """The base at (.4, .1); S1 goes to (.3, .3), then (.2, .4); S2 to (.3, .5), better in both than S1's first."""
    return [
        make("base", subject, step=0, clip_t=0.4, local_clip_i=0.1),
        make("s1", subject, step=100, clip_t=0.3, local_clip_i=0.3 + shift),
        make("s1", subject, step=400, clip_t=0.2, local_clip_i=0.4 + shift),
        make("s2", subject, step=400, clip_t=0.3, local_clip_i=0.5 + shift),
    ]


def test_areas_and_fronts_by_hand(make: Make) -> None:
    study = Study(tuple(results(make, "mug", 0.0)))
    cells = {label: [cell.text for cell in cells] for label, cells in area_sheet(study).rows()}
    assert cells == {"s1": ["20.00", "0"], "s2": ["40.00", "0, 400"]}
    assert "(0.200, 0.100)" in explained(study)


def test_an_interval_spans_what_single_subjects_give(make: Make) -> None:
    study = Study((*results(make, "mug", 0.0), *results(make, "duck", 0.2)))
    cells = {label: cells[0].text for label, cells in area_sheet(study).rows()}
    assert cells["s2"] == "50.00 [40.00, 60.00]"
    assert cells["s1"] == "30.00 [20.00, 40.00]"


@pytest.mark.parametrize("lacking", [100, 400])
def test_snapshots_that_lack_a_subject_count_nothing(make: Make, lacking: int) -> None:
    every = [*results(make, "mug", 0.0), *results(make, "duck", 0.0)]
    kept = [one for one in every if (one.method, one.step, one.subject) != ("s1", lacking, "duck")]
    cells = {label: cells[0].text.split()[0] for label, cells in area_sheet(Study(tuple(kept))).rows()}
    assert cells["s1"] == {100: "0.00", 400: "0.00"}[lacking]
