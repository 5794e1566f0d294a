"""A study refuses what does not compare, orders what does, and knows what is missing."""

import dataclasses
from collections.abc import Callable

import pytest

from quantbooth.reporting.results import Result
from quantbooth.reporting.score_table import score_table
from quantbooth.reporting.study import Method, Study
from quantbooth.reporting.summary import headline, incomplete
from quantbooth.runtime.errors import UserError

Make = Callable[..., Result]


def test_an_empty_report_is_refused() -> None:
    with pytest.raises(UserError, match="at least one result, got none"):
        Study(())


@pytest.mark.parametrize(("field", "other"), [("base", "sd15"), ("scorer", "ViT-L-14"), ("protocol", "dreambooth")])
def test_mixed_settings_are_refused_naming_both(make: Make, field: str, other: str) -> None:
    with pytest.raises(UserError) as refused:
        Study((make("s1"), make("s2", **{field: other})))
    assert f"one report needs one {field}" in str(refused.value)
    assert other in str(refused.value) and "scores-s1-" in str(refused.value) and "scores-s2-" in str(refused.value)


def test_other_images_of_a_subject_are_another_protocol(make: Make) -> None:
    one, two = make("s1"), make("s2")
    fewer = dataclasses.replace(two, rows=two.rows.iloc[:-1])
    with pytest.raises(UserError, match=r"only one has 'a sks mug' with noise seed 0"):
        Study((one, fewer))
    duck = make("s1", "toy_duck")
    with pytest.raises(UserError, match="5 images of toy_mug over 1 noise seeds .* 3 images of toy_duck"):
        Study((one, dataclasses.replace(duck, rows=duck.rows.iloc[:3])))


def test_results_without_the_oracle_do_not_join_those_with_it(make: Make) -> None:
    two = make("s2")
    bare = dataclasses.replace(two, rows=two.rows.drop(columns=["oracle_subject", "oracle_prompt", "oracle_class"]))
    with pytest.raises(UserError, match="has oracle_prompt, oracle_subject; evaluate both alike"):
        Study((make("s1"), bare))
    assert [score.key for score in Study((bare,)).scores] == ["local_clip_i", "clip_i", "clip_t", "subject_found"]


def test_the_same_cell_twice_is_refused(make: Make) -> None:
    with pytest.raises(UserError, match="must be given once, got s1 w4 on toy_mug, seed 0, step 400"):
        Study((make("s1"), make("s1")))


def test_arms_come_base_first_then_in_their_usual_order(four: Study, make: Make) -> None:
    study = Study((make("mine"), make("another"), *four.results), four.styles)
    expected = ["untuned base", "float", "baseline", "s1", "s2", "another", "mine"]
    assert [study.label(method) for method in study.methods] == expected
    assert study.steps(Method("s1", "w4")) == (200, 400)


def test_weights_join_the_name_only_where_needed(make: Make) -> None:
    study = Study((make("s1"), make("s1", quant="w3", run="other"), make("s2")))
    assert [study.label(method) for method in study.methods] == ["s1 w4", "s1 w3", "s2"]


def test_step_zero_is_the_base_whatever_its_method(make: Make) -> None:
    study = Study((make("s1", step=0), make("s1")))
    assert study.methods == (Method("base", "w4"), Method("s1", "w4"))


def test_missing_subjects_and_seeds_are_named_and_the_base_needs_no_seed(make: Make) -> None:
    study = Study(
        (
            make("base", step=0),
            make("base", "toy_duck", step=0),
            make("s1"),
            make("s1", seed=1),
            make("s1", "toy_duck"),
            make("s2", seed=1),
        )
    )
    assert study.missing(Method("base", "w4"), 0) == ()
    assert study.missing(Method("s1", "w4"), 400) == ("toy_duck seed 1",)
    assert study.missing(Method("s2", "w4"), 400) == ("toy_mug seed 0", "toy_duck")


def test_seeds_that_every_subject_lacks_are_named_once(make: Make) -> None:
    given = [make(method, subject) for method in ("s1", "s2") for subject in ("toy_mug", "toy_duck")]
    study = Study((*given, *(make("s2", subject, seed=1) for subject in ("toy_mug", "toy_duck"))))
    assert study.missing(Method("s1", "w4"), 400) == ("seed 1 of every subject",)
    assert study.missing(Method("s2", "w4"), 400) == ()


def test_means_by_hand_over_images_then_seeds(make: Make) -> None:
    study = Study(
        (
            make(seed=0, clip_t=[0.0, 0.1, 0.2, 0.3, 0.4]),
            make(seed=1, clip_t=0.6),
            make(subject="toy_duck", seed=0, clip_t=0.9),
        )
    )
    assert study.means(Method("s1", "w4"), 400, "clip_t") == pytest.approx({"toy_mug": 0.4, "toy_duck": 0.9})


def test_two_quantized_bases_of_one_name_are_refused_though_they_share_no_cell(make: Make) -> None:
    one, other = make("s1", "mug", weights="a" * 64), make("s1", "duck", weights="b" * 64)
    with pytest.raises(
        UserError, match=r"one quantized base for w4, got aaaaaaaa \(scores-s1-mug-0-400\) and bbbbbbbb"
    ):
        Study((one, other))
    other_bits = make("s1", "duck", weights="b" * 64, quant="w3")
    assert len(Study((one, other_bits, make("float", "mug"))).methods) == 3


def test_a_row_whose_run_went_on_is_incomplete_and_its_snapshot_is_not(make: Make) -> None:
    study = Study((make("s1", step=200, kept_until=400), make("s2", step=400, kept_until=400)))
    s1, s2 = Method("s1", "w4"), Method("s2", "w4")
    assert study.lacking(s1) == ("toy_mug step 400 (only 200 is scored)",) and study.lacking(s2) == ()
    assert study.missing(s1, 200) == ()
    assert incomplete(study) == ["s1 lacks toy_mug step 400 (only 200 is scored)"]
    assert "Nothing can be compared yet" in headline(study)
    table = score_table(study)
    assert [row.incomplete for row in table.rows] == [True, False]
    assert not any(cell.marked for row in table.rows for cell in row.cells.values())
    both = Study((make("s1", step=200, kept_until=400), make("s1", step=400, kept_until=400)))
    assert both.lacking(s1) == ()
