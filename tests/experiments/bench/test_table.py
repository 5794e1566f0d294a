"""Ratios and the page: pairs of turns within a group, the reference between groups, and gaps left as gaps."""

from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.bench.cases import Case, Setting, reference
from experiments.bench.ratios import over_floor, peak_ratio, step_ratio
from experiments.bench.results import Row, missing_row, read
from experiments.bench.table import document

RowWith = Callable[..., Row]
SD15 = Setting("sd15", 32, False)


def test_steps_of_a_group_are_compared_turn_by_turn(row_with: RowWith) -> None:
    """The second turn was disturbed for both, the median of ratios does not see it; that of seconds would."""
    ours = row_with(reference(SD15), [1.0, 5.0, 1.1], [1.0, 5.0, 1.1])
    theirs = row_with(Case(SD15, "float"), [2.0, 10.0, 4.4], [1.0, 5.0, 1.1])
    assert step_ratio(ours, theirs) == pytest.approx(0.5)
    assert step_ratio(theirs, ours) == pytest.approx(2.0)


def test_steps_of_two_groups_are_compared_through_the_reference(row_with: RowWith) -> None:
    ours = row_with(Case(SD15, "quantbooth", 8, 1, 1), [3.0, 3.0], [2.0, 2.0])
    theirs = row_with(Case(SD15, "float"), [12.0, 12.0], [4.0, 4.0])
    assert step_ratio(ours, theirs) == pytest.approx(1.5 / 3)


def test_what_is_missing_has_no_ratio(row_with: RowWith) -> None:
    row = row_with(reference(SD15), [1.0], [1.0])
    assert step_ratio(row, None) is peak_ratio(None, row) is None
    assert step_ratio(row_with(Case(SD15, "float"), [1.0], []), row) is None


def test_the_floor_is_the_stored_base_and_what_autograd_keeps_above_the_libraries(row_with: RowWith) -> None:
    assert over_floor(row_with(reference(SD15), [1.0], [1.0])) == pytest.approx((2.0 - 0.5) / (0.25 + 0.25))
    on_gpu = row_with(reference(SD15), [1.0], [1.0], cuda_peak_gb=1.0)
    assert over_floor(on_gpu) == pytest.approx(1.0 / (0.25 + 0.25))
    assert peak_ratio(on_gpu, on_gpu | {"cuda_peak_gb": 4.0}) == 0.25


def test_the_page_lays_figures_beside_targets_and_says_why_one_is_missing(row_with: RowWith) -> None:
    beside = [2.0, 2.0, 2.0]
    rows = [
        row_with(reference(SD15), beside, beside),
        row_with(Case(SD15, "float"), [4.0, 4.0, 4.0], beside, peak_rss_gb=16.0),
        row_with(Case(SD15, "quantbooth", 4, 3, 1), [5.0, 5.0, 5.0], beside),
        row_with(Case(SD15, "quantbooth_mixed_zones", 4, 3, 3), [6.0, 6.0, 6.0], beside),
        {**missing_row(Case(SD15, "lora"), "needs more"), "reference_steps_s": [], "commit": "abc", "machine": {}},
    ]
    page = document(rows)
    assert "| peak, x float DreamBooth | 0.14 | 0.125 | yes |" in page
    assert "| step, x float DreamBooth | 0.65 | 0.5 | yes |" in page
    assert "| 3 zones mixed, x the step of one zone, batch 3 | 1.05 | 1.2 | no |" in page
    assert "| peak, x LoRA | 0.4 | — | not measured |" in page
    assert "| quantbooth_mixed_zones W4 | 3 | 1.20 | 1.00 | 1.00 |" in page
    assert "- lora, batch 1: needs more" in page
    assert "Commit abc; cpu x; 3 timed steps." in page
    assert "## sd15, 32x32 latents, without checkpointing, cpu" in page


def test_the_page_in_the_repository_is_made_of_the_rows_in_it(repository: Path) -> None:
    file = repository / "experiments" / "bench" / "results.json"
    if not file.exists():
        pytest.skip("nothing was measured yet")
    assert file.with_suffix(".md").read_text() == document(read(file))
