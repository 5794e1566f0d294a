"""The comparison of plans with measurements: which rows are taken, what is like what, and what the tables say."""

import json
from dataclasses import asdict

import pytest

from experiments.planning.cards import tables
from experiments.planning.compare import HERE, Count, Measured, Step, count, measured, summary, table
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
    assert first.peak == pytest.approx(2.045468672 - 0.88948736)
    assert first.kept == 0.412164744


def test_a_step_is_counted() -> None:
    one, two = (count(Step("tiny", 8, 4, batch, 1, False)) for batch in (1, 2))
    assert 0 < one.held < one.held + one.kept <= one.peak
    assert two.kept == pytest.approx(2 * one.kept, rel=0.02)


def test_a_table_has_a_line_for_each_row() -> None:
    lines = table([(ONE, HALF)]).strip().splitlines()
    assert lines[2].split(" | ")[-8:-2] == ["1.500", "2.000", "0.75", "0.500", "1.000", "0.50"]


def test_a_factor_is_of_the_other_model() -> None:
    found = [(ONE, HALF), (OTHER, HALF)]  # factors 2 and 4: (1 + 4 / 2) / 2 and (1 + 2 / 2) / 4
    assert "| 0 of 2 |" in summary(found)
    assert summary([(ONE, HALF), (OTHER, Count(10**9, 1, 2 * 10**9))]).strip().endswith("| 1 of 2 |")


def test_the_tables_are_made_of_the_counts() -> None:
    known = json.loads((HERE / "estimates.json").read_text())
    rows = [(row, Count(**known[key])) for row in measured() if (key := json.dumps(asdict(row.step))) in known]
    assert (HERE / "table.md").read_text() == table(rows)
    assert (HERE / "summary.md").read_text() == summary(rows)
    plans = tables(complete(json.loads((HERE / "where.json").read_text())))
    assert {name: (HERE / name).read_text() for name in plans} == plans
