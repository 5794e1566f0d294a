"""Objectives are names of scores: the same everywhere, refused before work where they are not measured, in order."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from composing import composed
from quantbooth.commands.pipeline import value
from quantbooth.evaluation.files import Record, write_scores
from quantbooth.reporting.columns import SCORES
from quantbooth.run.objectives import objective_values, require_objectives
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError, WrongOptions
from quantbooth.runtime.options import require_valid
from quantbooth.schema import OBJECTIVES

JUDGES = dict.fromkeys(OBJECTIVES, "a judge")


def test_every_score_of_a_report_is_an_objective() -> None:
    assert sorted(OBJECTIVES) == sorted(score.key for score in SCORES)


@pytest.mark.parametrize("given", ["[clip_t,clip]", "clip_t", "[clip_t,clip_t]", "[seconds]"])
def test_another_name_is_refused_with_those_that_are_allowed(given: str) -> None:
    with pytest.raises(WrongOptions, match=r"objectives must be a list .* each one of clip_t, local_clip_i, clip_i"):
        require_valid(composed(f"objectives={given}"))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dino", []),
        ("local_dino", []),
        ("diversity", ["protocol.seeds=[0]"]),
        ("prior_kept", ["protocol.prior_prompts=0"]),
        ("oracle_prompt", ["scorer.oracle=null"]),
    ],
)
def test_a_score_that_is_not_measured_is_refused_with_those_that_are(
    compose: Callable[..., DictConfig], tmp_path: Path, name: str, options: list[str]
) -> None:
    run = Run(compose(tmp_path, "base=folder", "base.resolution=32", f"objectives=[clip_t,{name}]", *options))
    with pytest.raises(UserError, match=rf"objectives has {name}, .* measured are clip_t, .*local_clip_i"):
        require_objectives(run)


def test_what_the_options_measure_is_allowed(compose: Callable[..., DictConfig], tmp_path: Path) -> None:
    several = ["protocol.seeds=[0,1]", "protocol.prior_prompts=2"]
    names = ",".join(name for name in OBJECTIVES if "dino" not in name)
    require_objectives(Run(compose(tmp_path, "base=folder", "base.resolution=32", f"objectives=[{names}]", *several)))
    require_objectives(Run(compose(tmp_path, "base=folder", "base.resolution=32")))


def scored(folder: Path, subject: str, step: int, values: list[dict[str, float]]) -> Path:
    made = folder / f"{subject}-{step}"
    made.mkdir()
    about = Record("s1", subject, "w4", 0, step, "toy", "toy", "quick", {}, "image_set/one", "a-run")
    rows = [{"prompt": "a mug", "kind": "plain", "noise_seed": k, "file": f"{k}.png"} | v for k, v in enumerate(values)]
    write_scores(made, about, rows, JUDGES)
    return made


def test_values_are_means_of_the_last_step_over_pictures_then_subjects_in_the_order_asked_for(tmp_path: Path) -> None:
    nan = float("nan")
    folders = [
        scored(tmp_path, "mug", 0, [{"clip_t": 0.9, "dino": 0.9}]),
        scored(tmp_path, "mug", 7, [{"clip_t": 0.2, "dino": 0.5}, {"clip_t": 0.4, "dino": nan}]),
        scored(tmp_path, "duck", 0, [{"clip_t": 0.9, "dino": 0.9}]),
        scored(tmp_path, "duck", 7, [{"clip_t": 0.5, "dino": 0.1}]),
    ]
    assert objective_values(["dino", "clip_t"], folders) == pytest.approx((0.3, 0.4))
    assert objective_values(["clip_t", "dino"], folders) == pytest.approx((0.4, 0.3))
    assert value(composed("objectives=[clip_t,dino]"), folders) == pytest.approx((0.4, 0.3))
    assert value(composed("objectives=[clip_t]"), folders) == pytest.approx(0.4)
    assert value(composed(), folders) is folders


def test_a_score_that_no_picture_has_is_named(tmp_path: Path) -> None:
    folders = [scored(tmp_path, "mug", 7, [{"clip_t": 0.2, "oracle_prompt": float("nan")}])]
    with pytest.raises(UserError, match="objectives has oracle_prompt, which no picture"):
        objective_values(["clip_t", "oracle_prompt"], folders)
