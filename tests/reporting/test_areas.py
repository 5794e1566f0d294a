"""Areas and fronts of methods, worked out by hand: per subject, from the untuned base on, against a reference."""

import dataclasses
import io
from collections.abc import Callable

import pandas as pd
import pytest

from quantbooth.reporting.areas import area_table, areas, curves, explained, front, snapshots_csv
from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Method, Study

Make = Callable[..., Result]


@pytest.fixture
def study(make: Make) -> Study:
    """CLIP-T and local CLIP-I: base (.4, .2); the baseline ends at (.2, .6), S1 at (.3, .5) after passing (.35, .4)."""
    results = []
    for subject, more in (("mug", 0.0), ("duck", 0.1)):
        results += [
            make("base", subject, step=0, clip_t=0.4, local_clip_i=0.2 + more),
            make("baseline", subject, clip_t=0.2, local_clip_i=0.6 + more),
            make("s1", subject, step=200, clip_t=0.35, local_clip_i=0.4 + more),
            make("s1", subject, clip_t=0.3, local_clip_i=0.5 + more),
        ]
    return Study(tuple(results))


def test_areas_by_hand_for_each_subject_then_their_mean(study: Study) -> None:
    found = {area.curve.label: area for area in areas(study, "clip_t", "local_clip_i").values()}
    assert found["untuned base"].by_subject == pytest.approx({"mug": 0.4 * 0.2, "duck": 0.4 * 0.3})
    # baseline on the mug: .2 x .6 and the base's .2 x .2 beside it; the duck .1 higher over the base's whole width .4
    assert found["baseline"].by_subject == pytest.approx({"mug": 0.12 + 0.04, "duck": 0.12 + 0.04 + 0.04})
    # S1 on the mug: .3 x .5, then .05 x .4, then .05 x .2
    assert found["s1"].by_subject == pytest.approx({"mug": 0.15 + 0.02 + 0.01, "duck": 0.18 + 0.04})
    assert found["s1"].mean == pytest.approx(0.2)
    assert found["s1"].interval is not None and found["s1"].interval.low < 0.2 < found["s1"].interval.high


def test_the_lead_is_over_the_baseline_and_paired(study: Study) -> None:
    found = {area.curve.label: area.lead for area in areas(study, "clip_t", "local_clip_i").values()}
    assert found["baseline"] is None and found["untuned base"] is None
    lead = found["s1"]
    assert lead is not None and lead.mean == pytest.approx(0.02) and lead.sign == 0  # two subjects settle nothing
    assert lead.interval is not None and lead.interval.high - lead.interval.low < 1e-9


def test_six_subjects_settle_a_lead(make: Make) -> None:
    results = []
    for k in range(6):
        results.append(make("baseline", f"s{k}", clip_t=0.2, local_clip_i=0.5 + k / 100))
        results.append(make("s1", f"s{k}", clip_t=0.3, local_clip_i=0.5 + k / 90))
    found = {area.curve.label: area.lead for area in areas(Study(tuple(results)), "clip_t", "local_clip_i").values()}
    assert found["s1"] is not None and found["s1"].sign == 1


def test_the_front_is_common_to_all_methods(study: Study) -> None:
    lines = curves(study, "clip_t", "local_clip_i")
    s1, baseline = Method("s1", "w4"), Method("baseline", "w4")
    assert front(lines) == ((baseline, 400), (s1, 400), (s1, 200), (Method("base", "w4"), 0))
    beaten = Study(tuple(r for r in study.results if r.method != "baseline" or r.subject != "duck"))
    assert (baseline, 400) not in front(curves(beaten, "clip_t", "local_clip_i"))  # unfinished: no curve


def test_the_table_and_what_it_says(study: Study) -> None:
    table = area_table(study)
    assert [c.title for c in table.shown[:3]] == ["area (CLIP)", "− baseline (CLIP)", "on the front (CLIP)"]
    cells = {row.label: [cell.text for cell in table.cells(row)] for row in table.rows}
    assert cells["s1"][0].startswith("0.2000 [") and cells["s1"][2] == "200, 400"
    assert cells["baseline"][1] == "–" and cells["untuned base"][2] == "0"
    assert "more snapshots never dominate less" in explained(study)
    equal = Study(tuple(result for result in study.results if result.step != 200))
    assert "more snapshots" not in explained(equal)


def test_without_the_oracle_there_is_one_judge(study: Study) -> None:
    assert len(area_table(study).shown) == 6
    oracles = ["oracle_prompt", "oracle_subject", "oracle_class"]
    results = [dataclasses.replace(one, rows=one.rows.drop(columns=oracles)) for one in study.results]
    assert len(area_table(Study(tuple(results))).shown) == 3


def test_every_snapshot_is_a_line_of_numbers(study: Study) -> None:
    frame = pd.read_csv(io.StringIO(snapshots_csv(study)))
    assert frame[["method", "step"]].values.tolist() == [
        ["untuned base", 0],
        ["baseline", 400],
        ["s1", 200],
        ["s1", 400],
    ]
    assert frame["clip_t"].tolist() == pytest.approx([0.4, 0.2, 0.35, 0.3])
    assert frame["front_clip"].tolist() == [1, 1, 1, 1]
    assert (frame["local_clip_i_low"] <= frame["local_clip_i"]).all()
