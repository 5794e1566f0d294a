"""The table: hand-computed means, marks, units, and the same numbers in every form it is written in."""

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from quantbooth.reporting.results import Result
from quantbooth.reporting.score_table import caption, named_runs, picture_rows, score_table
from quantbooth.reporting.study import Study
from quantbooth.reporting.tables import activation_note, markdown

Make = Callable[..., Result]
COSTS = {
    "peak_memory_bytes": 655e6,
    "seconds": 612.0,
    "file_bytes": 24_100,
    "base_file_bytes": 1e7,
    "samples_seen": 1600,
}


def _frame(*results: Result) -> pd.DataFrame:
    """The table's CSV, read again."""
    return pd.read_csv(io.StringIO(score_table(Study(results)).to_csv()), index_col="method")


def test_means_are_per_subject_first_then_over_subjects(make: Make) -> None:
    row = _frame(
        make(seed=0, clip_t=[0.0, 0.1, 0.2, 0.3, 0.4], local_clip_i=0.5),
        make(seed=1, clip_t=0.6, local_clip_i=0.7),
        make(subject="toy_duck", seed=0, clip_t=0.9, local_clip_i=0.2),
        make(subject="toy_duck", seed=1, clip_t=0.7, local_clip_i=0.4),
    ).loc["s1"]
    assert row["clip_t"] == pytest.approx((0.4 + 0.8) / 2)
    assert row["local_clip_i"] == pytest.approx((0.6 + 0.3) / 2)
    assert row["clip_t_low"] <= row["clip_t"] <= row["clip_t_high"]
    assert (row["subjects"], row["seeds"]) == (2, 2) and np.isnan(row["missing"])


def test_one_row_per_method_at_its_last_step_and_the_base(four: Study) -> None:
    table = score_table(four)
    assert table.labels == ("untuned base", "float", "baseline", "s1", "s2")
    assert [row.cells["steps"].value for row in table.rows] == [0, 400, 400, 400, 400]
    assert table["s1"]["local_clip_i"].value == pytest.approx(0.731)
    assert all(row.cells["clip_t"].spread == "" for row in table.rows)
    marked = {row.label: [key for key, cell in row.cells.items() if cell.marked] for row in table.rows}
    assert marked["float"] == ["local_clip_i", "oracle_subject"]
    assert marked["s1"] == ["clip_t"] and marked["untuned base"] == []


def test_a_subjects_own_table_marks_nothing_and_has_no_costs(make: Make) -> None:
    study = Study((make("s1", clip_t=0.3), make("s2", clip_t=0.2), make("s1", "toy_duck", clip_t=0.7)))
    own = score_table(study, "toy_mug")
    assert own["s1"]["clip_t"].text == "0.300" and own.labels == ("s1", "s2")
    assert not any(cell.marked for row in own.rows for cell in row.cells.values()) and not own.notes
    assert "steps" not in [column.key for column in own.shown]


def test_costs_are_means_and_memory_the_largest(make: Make) -> None:
    cheap = {"seconds": 10.0, "peak_memory_bytes": 100.0, "samples_per_expert": [100, 300]}
    dear = {"seconds": 30.0, "peak_memory_bytes": 400.0, "samples_per_expert": [300, 300]}
    row = _frame(make("s2", costs=cheap), make("s2", seed=1, costs=dear)).loc["s2"]
    assert (row["seconds"], row["peak_memory_bytes"]) == (20.0, 400.0)
    assert row["samples_per_expert"] == "200/300"
    assert np.isnan(row["trainable"])


def test_earlier_rows_with_the_even_share_are_left_out_where_others_are_counted(make: Make) -> None:
    earlier, counted = ({"samples_per_expert": value} for value in (200.0, [100, 300]))
    row = _frame(make("s2", costs=earlier), make("s2", seed=1, costs=counted)).loc["s2"]
    assert row["samples_per_expert"] == "100/300"
    assert str(_frame(make("s2", costs=earlier)).loc["s2"]["samples_per_expert"]) == "200"


def test_what_is_missing_is_marked_not_averaged_silently(make: Make) -> None:
    table = score_table(Study((make("s1"), make("s1", "toy_duck"), make("s2", clip_t=0.9))))
    assert table["s2"]["missing"].value == "toy_duck"
    assert not any(cell.marked for row in table.rows for cell in row.cells.values())
    assert "| s2 † |" in table.to_markdown() and "| s1 |" in table.to_markdown()
    assert "s2" in table.notes[0] and "toy_duck" in table.notes[0]


def test_every_number_is_in_markdown_and_the_caption_names_base_scorer_and_runs(four: Study) -> None:
    table = score_table(four)
    lines = {line.split(" | ")[0].strip("| "): line for line in table.to_markdown().splitlines()}
    for row in table.rows:
        written = [part.strip(" *") for part in lines[row.label].strip("|").split("|")][1:]
        assert written == [cell.whole for cell in table.cells(row)]
    assert "toy / toy / oracle" in caption(four)
    assert all(result.run in named_runs(table) for result in four.results if result.step != 200)


def test_csv_holds_unrounded_numbers(four: Study) -> None:
    read = _frame(*four.results)
    for row in score_table(four).rows:
        assert read.loc[row.label, "clip_i"] == row.cells["clip_i"].value


@pytest.mark.parametrize("width", [30, 80, 200])
@pytest.mark.parametrize("tag", ["", "zones 700-1000, learning_rate 0.0001, calibration qdiffusion " * 2])
@pytest.mark.parametrize("subjects", [("mug",), ("mug", "duck")])
def test_the_terminal_shows_every_number_whole(make: Make, subjects: tuple[str, ...], tag: str, width: int) -> None:
    stream = io.StringIO()
    costs = {"trainable": 2_412_032, "samples_per_expert": [400, 800, 400]}
    values = zip(subjects, (0.3, 0.4), strict=False)
    results = [make(m, s, clip_t=v, costs=COSTS | costs) for s, v in values for m in ("baseline", "s2")]
    table = score_table(Study(tuple(results)))
    table = replace(table, rows=tuple(replace(row, label=row.label + tag) for row in table.rows), notes=())
    table.show(Console(file=stream, width=width))
    shown = stream.getvalue().split()
    for row in table.rows:
        assert all(part in shown for cell in table.cells(row) for part in cell.whole.split())
    assert max(map(len, stream.getvalue().splitlines())) <= width


def test_units_are_in_the_headers_and_fit_the_smallest_number(four: Study, make: Make) -> None:
    titles = {column.title for column in score_table(four).shown}
    assert {"peak memory (MB)", "file (kB)", "base file (MB)", "tuning (s)", "found (%)"} <= titles
    bare = {column.title for column in score_table(Study((make("base", step=0),))).shown}
    assert not {"tuning (s)", "per expert", "tuning"} & bare


def test_rows_keep_every_image_with_its_setting(four: Study) -> None:
    frame = picture_rows(four)
    assert len(frame) == sum(len(result.rows) for result in four.results)
    assert {"method", "subject", "quant", "seed", "step", "base", "scorer", "protocol", "run"} <= set(frame)
    assert frame[frame["method"] == "s1"]["step"].unique().tolist() == [200, 400]


def test_of_many_runs_the_csv_tells(make: Make) -> None:
    table = score_table(Study(tuple(make("s1", subject) for subject in "abcdefghijklm")))
    assert "13" in named_runs(table) and "`table.csv`" in named_runs(table)
    assert all(f"s1-{subject}-" in table.to_csv() for subject in "abcdefghijklm")


def test_a_bar_in_a_cell_is_escaped() -> None:
    assert markdown(["a", "b"], [["1|2", "3"]]).splitlines() == ["| a | b |", "| --- | ---: |", r"| 1\|2 | 3 |"]


def test_simulated_activations_are_named(make: Make) -> None:
    note = activation_note(["w4", "w4a8", "fp", "w8a6 calibration=mse", "w4a8"])
    assert note is not None and note.startswith("w4a8, w8a6 calibration=mse - ")
    assert activation_note(["w4", "fp", "w8"]) is None
    assert any("w4a8" in line for line in score_table(Study((make("s1"), make("s1", quant="w4a8")))).notes)
    assert score_table(Study((make("s1"),))).notes == ()
