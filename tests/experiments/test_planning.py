"""The comparison of plans with measurements: which rows are taken, what is like what, and what the tables say."""

import json
from dataclasses import asdict, replace

import pytest

from experiments.planning.cards import tables
from experiments.planning.compare import HERE, Count, Measured, Step, count, measured, speeds, summary, table
from experiments.planning.measure import FILE
from experiments.planning.where import complete

ONE = Measured("CPU", "quantbooth", Step("sd15", 32, 4, 1, 1, False), 2.0, 1.0, 0.5)
OTHER = Measured("CPU", "quantbooth", Step("sdxl", 32, 4, 1, 1, False), 4.0, 2.0, 0.5)
HALF = Count(10**9, 5 * 10**8, 15 * 10**8)


def test_rows_are_those_of_our_layers_and_all_that_are_measured() -> None:
    rows = list(measured())
    assert {row.where for row in rows} == {"H200", "H100", "CPU"}
    assert not any(word in row.method for row in rows for word in ("lora", "peqa", "float", "floor", "folded"))
    assert all(0 < row.top <= row.peak for row in rows)
    first = next(row for row in rows if row.where == "CPU")
    one = json.loads(FILE.read_text())["rows"][0]
    assert (first.peak, first.libraries) == (one["peak_gb"], one["libraries_gb"])
    assert first.kept == 0.412164744
    assert {row.seconds is None for row in rows if row.where == "CPU"} == {True}


@pytest.mark.parametrize("model", ["tiny", "tiny-sd3", "tiny-klein"])
@pytest.mark.chain
def test_a_step_is_counted(model: str) -> None:
    one, two = (count(Step(model, 8, 4, batch, 1, False)) for batch in (1, 2))
    assert 0 < one.held < one.held + one.kept <= one.peak
    assert two.kept == pytest.approx(2 * one.kept, rel=0.02)


def test_a_table_has_a_line_for_each_row() -> None:
    lines = table([(ONE, HALF)]).strip().splitlines()
    assert lines[2].split(" | ")[-8:-2] == ["1.500", "2.000", "0.75", "0.500", "1.000", "0.50"]


def test_libraries_are_added_to_the_count_as_a_plan_does() -> None:
    assert replace(ONE, libraries=0.5).of_peak(HALF) == 2.0
    assert "| 0 of 1 |" in summary([(ONE, HALF)])
    assert "| 1 of 1 |" in summary([(replace(ONE, libraries=0.5), HALF)])


def test_a_speed_is_work_over_time_and_work_grows_with_the_batch() -> None:
    step = replace(ONE.step, batch=4, card=True)
    card, counted = replace(ONE, where="H100", seconds=0.5, step=step), replace(HALF, flops=10**12)
    lines = speeds([(replace(card, step=replace(step, batch=1)), counted), (card, HALF)]).strip().splitlines()
    assert [line.split(" | ")[-3:] for line in lines[2:]] == [["1.00", "500", "2 |"], ["4.00", "500", "8 |"]]
    assert len(speeds([(ONE, counted)]).strip().splitlines()) == 2  # of the CPU no time was measured alone


def test_the_tables_are_made_of_the_counts() -> None:
    known = json.loads((HERE / "estimates.json").read_text())
    rows = [(row, Count(**known[key])) for row in measured() if (key := json.dumps(asdict(row.step))) in known]
    assert (HERE / "table.md").read_text() == table(rows)
    assert (HERE / "summary.md").read_text() == summary(rows)
    assert (HERE / "speeds.md").read_text() == speeds(rows)
    plans = tables(complete(json.loads((HERE / "where.json").read_text())))
    assert {name: (HERE / name).read_text() for name in plans} == plans
