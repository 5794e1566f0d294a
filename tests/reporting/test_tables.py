"""The table: hand-computed means, marks, units, and the same numbers in every form it is written in."""

import io
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from quantbooth.reporting.layout import whole_sheet
from quantbooth.reporting.results import Result
from quantbooth.reporting.tables import as_csv, as_markdown, caption, print_table, rows, table
from quantbooth.runtime.errors import UserError

Make = Callable[..., Result]
COSTS = {
    "peak_memory_bytes": 655e6,
    "seconds": 612.0,
    "file_bytes": 24_100,
    "base_file_bytes": 1e7,
    "samples_seen": 1600,
}


def test_means_are_per_subject_first_then_over_subjects(make: Make) -> None:
    frame = table(
        [
            make(seed=0, clip_t=[0.0, 0.1, 0.2, 0.3, 0.4], local_clip_i=0.5),
            make(seed=1, clip_t=0.6, local_clip_i=0.7),
            make(subject="toy_duck", seed=0, clip_t=0.9, local_clip_i=0.2),
            make(subject="toy_duck", seed=1, clip_t=0.7, local_clip_i=0.4),
        ]
    )
    row = frame.loc["s1"]
    assert row["clip_t"] == pytest.approx((0.4 + 0.8) / 2)
    assert row["local_clip_i"] == pytest.approx((0.6 + 0.3) / 2)
    assert row["clip_t_low"] <= row["clip_t"] <= row["clip_t_high"]
    assert (row["subjects"], row["seeds"], row["missing"]) == (2, 2, "")


def test_one_row_per_method_at_its_last_step_and_the_base(four: list[Result]) -> None:
    frame = table(four)
    assert list(frame.index) == ["untuned base", "float", "baseline", "s1", "s2"]
    assert list(frame["steps"]) == [0, 400, 400, 400, 400]
    assert frame.loc["s1", "local_clip_i"] == pytest.approx(0.731)
    assert frame["clip_t_low"].isna().all()
    assert frame.loc["float", "best"] == "local_clip_i oracle_subject"
    assert frame.loc["s1", "best"] == "clip_t"
    assert frame.loc["untuned base", "best"] == ""


def test_costs_are_means_and_memory_the_largest(make: Make) -> None:
    cheap = {"seconds": 10.0, "peak_memory_bytes": 100.0, "samples_per_expert": [100, 300]}
    dear = {"seconds": 30.0, "peak_memory_bytes": 400.0, "samples_per_expert": [300, 300]}
    row = table([make("s2", costs=cheap), make("s2", seed=1, costs=dear)]).loc["s2"]
    assert (row["seconds"], row["peak_memory_bytes"]) == (20.0, 400.0)
    assert row["samples_per_expert"] == "200/300"
    assert np.isnan(row["trainable"])


def test_what_is_missing_is_marked_not_averaged_silently(make: Make) -> None:
    results = [make("s1"), make("s1", "toy_duck"), make("s2", clip_t=0.9)]
    frame = table(results)
    assert frame.loc["s2", "missing"] == "toy_duck"
    assert frame["best"].eq("").all()
    text = as_markdown(frame, caption(results))
    assert "| s2 † |" in text and "| s1 |" in text
    assert "† s2 lacks toy_duck" in text


def test_every_number_is_in_markdown_and_the_caption_names_base_scorer_and_runs(four: list[Result]) -> None:
    frame = table(four)
    text = as_markdown(frame, caption(four))
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("|")}
    for label, cells in whole_sheet(frame).rows():
        written = [part.strip(" *") for part in lines[label].strip("|").split("|")][1:]
        assert written == [cell.text for cell in cells]
    assert "Base toy; scorer toy / toy / oracle" in text
    assert "A single run: no interval, and no proof." in text
    reported = [result for result in four if result.step != 200]
    assert all(result.run in text for result in reported)


def test_csv_holds_unrounded_numbers(four: list[Result]) -> None:
    frame = table(four)
    read = pd.read_csv(io.StringIO(as_csv(frame)), index_col="method")
    np.testing.assert_array_equal(read["clip_i"], frame["clip_i"])


@pytest.mark.parametrize("subjects", [("mug",), ("mug", "duck")])
def test_the_terminal_shows_every_number_whole_at_80_columns(make: Make, subjects: tuple[str, ...]) -> None:
    stream = io.StringIO()
    costs = {"trainable": 2_412_032, "samples_per_expert": [400, 800, 400]}
    values = zip(subjects, (0.3, 0.4), strict=False)
    frame = table([make(m, s, clip_t=v, costs=COSTS | costs) for s, v in values for m in ("baseline", "s2")])
    print_table(frame, Console(file=stream, width=80))
    shown = stream.getvalue().split()
    for _, cells in whole_sheet(frame).rows():
        assert all(part in shown for cell in cells for part in cell.text.split())


def test_units_are_in_the_headers_and_fit_the_smallest_number(four: list[Result], make: Make) -> None:
    titles = whole_sheet(table(four)).titles
    assert {"peak memory (MB)", "file (kB)", "base file (MB)", "tuning (s)", "found (%)"} <= set(titles)
    bare = whole_sheet(table([make("base", step=0)])).titles
    assert "tuning (s)" not in bare and "per expert" not in bare


def test_rows_keep_every_image_with_its_setting(four: list[Result]) -> None:
    frame = rows(four)
    assert len(frame) == sum(len(result.rows) for result in four)
    assert {"method", "subject", "quant", "seed", "step", "base", "scorer", "protocol", "run"} <= set(frame)
    assert frame[frame["method"] == "s1"]["step"].unique().tolist() == [200, 400]


def test_two_bases_never_share_a_table(make: Make) -> None:
    with pytest.raises(UserError, match="got 'toy' .* and 'sd15'"):
        table([make("s1"), make("s2", base="sd15")])


def test_of_many_runs_the_csv_tells(make: Make) -> None:
    many = [make("s1", subject) for subject in "abcdefghijklm"]
    frame = table(many)
    assert "Runs: 13, named by method in the column `runs` of `table.csv`" in as_markdown(frame, caption(many))
    assert all(result.run in as_csv(frame) for result in many)
