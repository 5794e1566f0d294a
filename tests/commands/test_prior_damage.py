"""protocol.prior_prompts: pictures of other subjects, compared with the untuned base's, and reported."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from composing import composed
from quantbooth.commands import pipeline
from quantbooth.commands.report import read_result, report
from quantbooth.evaluation.files import read_measured, read_rows
from quantbooth.reporting.study import Study
from quantbooth.run.run import Run
from quantbooth.sampling.image_set import UNRELATED, read_requests
from quantbooth.store.manifest import open_artifact

Configure = Callable[..., DictConfig]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=2", "prior=none", "tuner.steps=2"),
    *(
        "preview.validation_steps=0",
        "tuner.learning_rate=0.3",
        "protocol.prompt_stride=13",
        "protocol.prior_prompts=2",
        "protocol.seeds=[0,3]",
    ),
)


@pytest.fixture(scope="module")
def configure(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """Makes a configuration on a tiny untrained base; all share one store."""
    place = tmp_path_factory.mktemp("drift")
    return lambda *words: composed(*QUICK, f"base.path={base_folder}", f"paths.outputs={place}", *words)


@pytest.fixture(scope="module")
def scores(configure: Configure) -> list[Path]:
    """Of the untuned base and of what was tuned."""
    return pipeline.job(configure())


@pytest.mark.chain
def test_sets_hold_the_subjects_pictures_and_those_of_other_prompts(configure: Configure, scores: list[Path]) -> None:
    plan = Run(configure())
    for step in (0, 2):
        folder = plan.only.images(step).require()
        requests = read_requests(folder)
        assert [request.kind == UNRELATED for request in requests] == [False] * 4 + [True] * 2
        assert all((folder / request.file).is_file() for request in requests)
        assert {request.seed for request in requests[4:]} == {0}
    assert plan.only.scores(2).manifest().parents.keys() == {"images", "untuned"}
    assert open_artifact(scores[1], "scores").parents["untuned"] == plan.only.images(0).manifest().fingerprint


def test_the_untuned_base_keeps_everything_and_the_tuned_one_less(scores: list[Path]) -> None:
    before, after = (read_rows(folder).groupby("kind", sort=False) for folder in scores)
    assert before.get_group(UNRELATED)["prior_kept"].tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    assert (after.get_group(UNRELATED)["prior_kept"] < 1 - 1e-6).all()
    for _, rows in after:
        others = rows["kind"].iloc[0] == UNRELATED
        assert rows[["clip_t", "clip_i", "local_clip_i", "diversity"]].isna().all(axis=None) == others
        assert rows["prior_kept"].notna().all() == others


def test_on_disk_each_row_tells_what_it_was_measured_with(scores: list[Path]) -> None:
    long = read_measured(scores[1])
    assert set(zip(long["subject"], long["step"], strict=True)) == {("toy_mug", 2)}
    by_metric = long.groupby("metric")["measured_with"].unique()
    assert all(len(names) == 1 and names[0] for names in by_metric)
    assert by_metric["clip_t"][0].startswith("toy scorer ") and " toy locator " in by_metric["local_clip_i"][0]
    assert by_metric["oracle_subject"][0].startswith("toy oracle ")


def test_a_report_shows_both_columns(configure: Configure, scores: list[Path], tmp_path: Path) -> None:
    study = Study(tuple(read_result(folder) for folder in scores))
    assert {"diversity", "prior_kept"} <= {score.key for score in study.scores}
    report(configure(f"report.folder={tmp_path}"), scores)
    table = (tmp_path / "table.md").read_text()
    assert "| diversity |" in table and "| prior kept |" in table
    assert "2 prompts of other subjects" in table


def test_switched_off_nothing_is_named_or_drawn_differently(configure: Configure) -> None:
    plan = Run(configure("protocol.prior_prompts=0", "protocol.seeds=[0]"))
    assert plan.only.images(0).identity.keys() == {"base", "quantized_base", "subject", "protocol", "sampler"}
    assert plan.only.images(0).identity["protocol"] == {"seeds": [0], "prompt_stride": 13}
    assert plan.only.scores(0).identity.keys() == {"images", "scorer", "names"}
    assert all(request.kind != UNRELATED for request in plan.only.requests())


def test_the_toy_worlds_other_prompts_are_about_other_classes_in_words_its_judges_know() -> None:
    plan = Run(composed("protocol=dreambooth"))
    others = [request.text for request in plan.only.requests() if request.kind == UNRELATED]
    assert len(others) == len(set(others)) == 10
    assert not any({"mug", "sks"} & set(text.split()) for text in others)
    assert plan.scorer.encoder.texts(others).shape[0] == 10  # which refuses words it never learned
