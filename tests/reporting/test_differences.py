"""Paired differences, shares of float's gain and scores by step, against figures worked out by hand."""

from collections.abc import Callable

import pytest

from quantbooth.reporting.columns import score_named
from quantbooth.reporting.differences import as_markdown, difference_table, share_table, steps_table
from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Study
from quantbooth.reporting.summary import headline
from quantbooth.runtime.errors import UserError

Make = Callable[..., Result]
SUBJECTS = ("mug", "duck", "fish", "car", "boot", "house")
HEIGHTS = {"base": 0.10, "baseline": 0.30, "s2": 0.34}


@pytest.fixture
def study(make: Make) -> Study:
    """Every method lies evenly above the base of its weights; float's gain is 0.4, the baseline's 0.2, S2's 0.24."""
    results = [
        make(method, subject, step=400 if method != "base" else 0, local_clip_i=height + k / 100)
        for method, height in HEIGHTS.items()
        for k, subject in enumerate(SUBJECTS)
    ]
    results += [make("baseline", subject, step=100, local_clip_i=0.2 + k / 100) for k, subject in enumerate(SUBJECTS)]
    results += [make("base", subject, step=0, quant="fp", local_clip_i=0.2) for subject in SUBJECTS]
    results += [make("float", subject, local_clip_i=0.6) for subject in SUBJECTS]
    return Study(tuple(results))


def _column(study: Study, label: str, title: str = "local CLIP-I") -> tuple[str, bool]:
    table = difference_table(study)
    cell = table[label][next(column.key for column in table.shown if column.title == title)]
    return cell.text, cell.marked


def test_differences_are_those_of_the_means_and_marked_where_settled(study: Study) -> None:
    assert _column(study, "s2 − baseline") == ("+0.040 [+0.040, +0.040] (0.000)", True)
    assert _column(study, "baseline − untuned base w4") == ("+0.200 [+0.200, +0.200] (0.000)", True)
    assert _column(study, "s2 − baseline", "CLIP-T") == ("0.000 [0.000, 0.000] (0.000)", False)
    assert _column(study, "float − baseline")[0].startswith("+0.275")


def test_each_pair_is_told_once(study: Study) -> None:
    labels = difference_table(study).labels
    assert len(labels) == len(set(labels))
    assert "float − baseline" in labels and "baseline − float" not in labels


def _compared(study: Study) -> set[str]:
    return {label.split(" − ")[1] for label in difference_table(study).labels if "steps" not in label} - {
        study.label(method) for method in study.methods if method.untuned
    }


def test_others_are_compared_with_the_methods_that_are_named(study: Study) -> None:
    chosen = Study(study.results, study.styles, ("s2",))
    assert _compared(study) == {"baseline", "float"} and _compared(chosen) == {"s2"}
    assert _column(chosen, "baseline − s2")[0].startswith("−0.040")
    assert "compared with s2" in headline(chosen) and "compared with s2" not in headline(study)


@pytest.mark.parametrize("label", ["lora", "untuned base w4", ""])
def test_a_method_that_the_table_does_not_have_is_refused_with_those_it_has(study: Study, label: str) -> None:
    with pytest.raises(UserError, match=rf"report\.compare_with .*, found {label}; they are: baseline, float, s2"):
        Study(study.results, study.styles, (label,))


def test_one_set_for_all_timesteps_comes_before_other_tuners(make: Make) -> None:
    """Adapters of a float base are a baseline too, but the question is about scales."""
    names = ("lora", "baseline-scales_in_out", "s2-scales_in_out")
    study = Study(tuple(make(name, subject) for name in names for subject in SUBJECTS))
    assert _compared(study) == {"baseline-scales_in_out"}


def test_late_steps_are_held_against_early_ones(study: Study) -> None:
    assert _column(study, "baseline at 400 steps − baseline at 100 steps")[0] == "+0.100 [+0.100, +0.100] (0.000)"


def test_share_is_of_the_gain_over_the_base_of_the_same_weights(study: Study) -> None:
    table = share_table(study)
    assert [table[m]["local_clip_i"].text for m in ("baseline", "s2")] == ["50 [50, 50]", "60 [60, 60]"]
    assert "float" not in table.labels


def test_no_share_of_a_gain_that_is_none(make: Make) -> None:
    results = [make("base", s, step=0, quant=q) for s in SUBJECTS for q in ("w4", "fp")]
    results += [make(m, s) for s in SUBJECTS for m in ("float", "baseline")]
    assert share_table(Study(tuple(results))).labels == ()


def test_one_subject_has_differences_and_no_interval(four: Study) -> None:
    assert _column(four, "s2 − baseline") == ("0.000", False)
    assert share_table(four).labels == ()


def test_fewer_than_six_subjects_mark_nothing(study: Study) -> None:
    few = Study(tuple(result for result in study.results if result.subject in SUBJECTS[:5]))
    assert _column(few, "s2 − baseline") == ("+0.040 [+0.040, +0.040]", False)
    assert "four times in five" not in as_markdown(few)
    assert "fewer than 6 subjects no sign is settled" in as_markdown(few)


def test_steps_are_columns_and_unfinished_snapshots_empty(make: Make) -> None:
    results = [make("base", s, step=0, clip_t=0.1) for s in SUBJECTS]
    results += [make("s1", s, step=50, clip_t=0.2) for s in SUBJECTS[:2]]
    results += [make("s1", s, step=100, clip_t=0.3) for s in SUBJECTS]
    table = steps_table(Study(tuple(results)), score_named("clip_t"))
    assert [column.title for column in table.shown] == ["0", "50", "100"]
    assert [cell.text for cell in table.cells(table.rows[0])] == ["0.100", "–", "0.300"]


def test_markdown_names_subjects_seeds_and_every_table(study: Study) -> None:
    text = as_markdown(study)
    assert "| difference | local CLIP-I |" in text and "% of float's gain" in text
    assert "| **+0.040 [+0.040, +0.040] (0.000)** |" in text
