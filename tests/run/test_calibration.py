"""The calibration of a run: prompts, source and batches of its calibration set; invalid prompt files."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from composing import composed
from quantbooth.run.calibration import CalibrationSetSpec
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError

Configure = Callable[..., DictConfig]


@pytest.fixture
def configure(base_folder: Path, tmp_path: Path) -> Configure:
    def make(*overrides: str, toy: bool = False) -> DictConfig:
        base = ["base=toy"] if toy else ["base=folder", f"base.path={base_folder}", "base.resolution=32"]
        given = [*base, f"paths.outputs={tmp_path}/out", "calibration=qdiffusion"]
        return composed(*given, *overrides)

    return make


def set_spec(cfg: DictConfig) -> CalibrationSetSpec:
    found = Run(cfg).calibration.set_spec
    assert found is not None
    return found


def test_batches_are_the_questions_in_their_order(configure: Configure) -> None:
    plan = set_spec(configure("calibration.set.count=5", "calibration.set.batch=2"))
    assert [len(asked.texts) for asked in plan.prompt_batches] == [2, 2, 1]
    asked = [pair for some in plan.prompt_batches for pair in zip(some.texts, some.seeds, strict=True)]
    assert asked == [(question.text, question.seed) for question in plan.questions.each]


def test_sentences_are_given_or_lie_in_a_file(configure: Configure, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a red mug\n\n  ein Löwe \n", encoding="utf-8")
    counted = "calibration.set.count=3"
    filed = set_spec(configure(f"calibration.set.prompts={file}", counted))
    given = set_spec(configure("calibration.set.prompts=['a red mug','ein Löwe']", counted))
    assert [question.text for question in filed.questions.each] == ["a red mug", "ein Löwe", "a red mug"]
    assert filed.artifact.identity == given.artifact.identity
    file.write_text("a red mug\na duck\n", encoding="utf-8")
    assert set_spec(configure(f"calibration.set.prompts={file}", counted)).artifact.identity != given.artifact.identity


def test_a_word_that_is_no_file_is_refused(configure: Configure) -> None:
    with pytest.raises(UserError, match=r"calibration.set.prompts must be a list .* or a text file .* got 'mugs.txt'"):
        set_spec(configure("calibration.set.prompts=mugs.txt"))


def test_a_file_without_sentences_is_refused(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(UserError, match=r"calibration.set.prompts must be a list of sentences"):
        set_spec(configure(f"calibration.set.prompts={tmp_path}/none.txt"))


def test_true_pictures_serve_forward_where_they_are_known(configure: Configure) -> None:
    options = ("calibration.set.source=forward", "calibration.set.count=3", "calibration.set.batch=2")
    toy = configure(*options, toy=True)
    pictures = [asked.pictures for asked in set_spec(toy).prompt_batches]
    assert [None if shown is None else len(shown) for shown in pictures] == [2, 1]


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("quant=fp",), r"^quant\.group_size=8 has no effect on quant=fp; choose quant=w4$"),
        (("quant.split_skips=true",), r"^quant\.group_size=8 does not go with quant\.split_skips=true"),
        (("quant=w4a8",), r"^quant\.group_size=8 does not go with quant\.act_bits=8"),
        (("quant=as_stored",), r"^quant\.group_size=8 has no effect on quant=as_stored"),
    ],
)
def test_groups_that_something_else_decides_are_refused(
    configure: Configure, words: tuple[str, ...], refusal: str
) -> None:
    with pytest.raises(UserError, match=refusal):
        _ = Run(configure(*words, "quant.group_size=8")).calibration.quantized_base
