"""quantbooth-probe on a tiny untrained base: rows as they must be, a document that shows them, nothing done twice."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig

from composing import composed
from quantbooth.commands.probe import conclude, job, probe
from quantbooth.probe import probing
from quantbooth.probe.decisions import Border
from quantbooth.probe.document import answers, suggested, switches
from quantbooth.probe.files import read_probe
from quantbooth.run.run import Run
from quantbooth.runtime.config import TRUST
from quantbooth.runtime.errors import UserError

Configure = Callable[..., DictConfig]
QUICK = ("probe.pairs=3", "probe.every=500", "probe.questions=2", "probe.grid=3", "sampler.steps=3")


@pytest.fixture(autouse=True)
def _trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUST, "pathlib,quantbooth.data.questions")


@pytest.fixture(scope="module")
def configure(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Configure:
    outputs = tmp_path_factory.mktemp("outputs")

    def make(*overrides: str, group: str = "toy") -> DictConfig:
        given = [*QUICK, f"base={group}", f"paths.outputs={outputs}", *overrides]
        if group == "folder":
            given += [f"base.path={base_folder}", "base.resolution=32"]
        else:
            given += ["+base.path=x", "base.folder._target_=pathlib.Path", f"+base.folder._args_=[{base_folder}]"]
        return composed(*given, name="probe")

    return make


def test_a_probe_has_a_row_for_every_pair_swap_and_attribute(configure: Configure) -> None:
    found = read_probe(probe(Run(configure())))
    assert set(found.swaps["attribute"]) == {"prompt", "context", "class_word", "colour", "pattern", "accessory"}
    assert len(found.swaps) == 3 * 3 * 6
    assert switches(found).tolist() == [0, 500, 1000]
    assert not (found.swaps["first"] & found.swaps["second"]).any()
    told = found.swaps[found.swaps["attribute"] == "prompt"]
    assert (told["first"] ^ told["second"]).all()
    assert len(found.forecasts) == 2 * 3
    assert (found.forecasts.groupby("question")["distance"].last() == 0).all()
    assert found.worth["t"].drop_duplicates().tolist() == [0, 500, 999]
    assert np.isfinite(found.worth[["with_text", "without"]].to_numpy()).all()
    assert {name: first.shape for name, (first, _) in answers(found).items()} == dict.fromkeys(
        ("context", "class_word", "colour", "pattern", "accessory"), (3, 3)
    )


def test_a_finished_probe_is_not_repeated(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    first = probe(Run(configure()))

    def never(*_: object) -> None:
        raise AssertionError("a picture was drawn again")

    monkeypatch.setattr(probing, "prompt_swap", never)
    assert probe(Run(configure())) == first
    with pytest.raises(AssertionError, match="drawn again"):
        probe(Run(configure("probe.seed=4")))


def test_a_base_without_a_world_of_its_own_is_judged_by_whole_sentences(configure: Configure) -> None:
    """General prompts, no true pictures: x_0 is what the base drew; the scorer says which sentence it is closer to."""
    pairs = "[['a red mug','a blue duck'],['a fish at night','a car']]"
    given = ("+base.held_out.texts=[a mug,a duck]", "base.held_out._target_=quantbooth.data.questions.questions_of")
    cfg = configure(f"probe.prompts={pairs}", *given, "+base.held_out.name=two", group="folder")
    found = read_probe(probe(Run(cfg)))
    assert set(found.swaps["attribute"]) == {"prompt"}
    assert list(answers(found)) == ["prompt"]


def test_the_document_shows_the_rows(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("quantbooth.probe.document.borders", lambda *_, **__: (Border(230, 1, 2), Border(690, 3, 4)))
    cfg = configure(f"probe.folder={tmp_path}/p", f"probe.document={tmp_path}/zones.md")
    conclude([(cfg, probe(Run(cfg)))])
    page = (tmp_path / "zones.md").read_text()
    assert "clean_up [0, 250), content [250, 700), coarse [700, 1000)" in page
    assert "230 (95 % interval 1 to 2)" in page
    assert "(p/zones.svg)" in page
    assert "accessory" in (tmp_path / "p" / "zones.svg").read_text()
    rows = read_probe(probe(Run(cfg))).swaps.query("t == 500 and attribute == 'class_word'")
    line = next(line for line in page.splitlines() if line.startswith("| 500 "))
    assert f"{rows['first'].mean():.2f} / {rows['second'].mean():.2f}" in line
    assert "suggested zones of toy" in capsys.readouterr().out


def test_prompts_that_the_scorer_cannot_judge_are_refused_before_the_base_is_read(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantbooth.commands.probe.base_with", lambda *_: pytest.fail("the base was read"))
    with pytest.raises(UserError, match="no word 'zebra'"):
        probe(Run(configure("probe.prompts=[[a red zebra,a red mug]]", "probe.pairs=1")))


def test_borders_that_leave_no_three_zones_are_refused() -> None:
    assert suggested(Border(226, 0, 0), Border(700, 0, 0), 50, 1000)["content"] == [250, 700]
    for low, high in ((10, 700), (300, 310), (300, 990), (float("nan"), float("nan")), (700, 300)):
        with pytest.raises(UserError, match="probe"):
            suggested(Border(low, 0, 0), Border(high, 0, 0), 50, 1000)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("quant=w4", "quant=fp"),
        ("probe.prompts=[[a,a]]", "'a'"),
        ("probe.prompts=[[a red mug,A  red mug]]", "'A  red mug'"),
        ("probe.prompts=[[a mug,a duck],[a mug,a Duck]]", "probe.prompts"),
        ("probe.prompts=[[a mug,a duck],[a duck,a mug],[a mug,a fish],[a fish,a mug]]", "probe.pairs=3"),
        ("probe.every=300", "probe.every must divide base.timesteps = 1000"),
        ("probe.every=2000", "got 2000"),
        ("probe.grid=1001", "probe.grid"),
        ("probe.round=334", "probe.round"),
        ("probe.folder=pyproject.toml", "probe.folder"),
        ("probe.document=src", "probe.document"),
        ("lora=[x]", "lora"),
        ("strength=0", "strength=0"),
        ("strength={content: 1}", "strength"),
        ("unconditional_strength=0", "unconditional_strength=0"),
        ("negative_prompt=blue", "negative_prompt='blue'"),
        ("prompt=a mug", "prompt"),
        ("scale_sets=x", "scale_sets"),
    ],
)
@pytest.mark.chain
def test_wrong_options_are_refused_before_any_work(
    configure: Configure, wrong: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantbooth.commands.probe.base_with", lambda *_: pytest.fail("the base was read"))
    with pytest.raises(UserError) as caught:
        job(configure(wrong))
    assert named in str(caught.value)


@pytest.mark.chain
def test_a_probe_whose_document_another_takes_is_told(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("quantbooth.probe.document.borders", lambda *_, **__: (Border(230, 1, 2), Border(690, 3, 4)))
    places = [tmp_path / name for name in ("a", "a", "b")]
    cfgs = [configure(f"probe.folder={place}", f"probe.seed={seed}") for seed, place in enumerate(places)]
    jobs = [(cfg, probe(Run(cfg))) for cfg in cfgs]
    conclude(jobs)
    assert all((place / "zones_of_the_base.md").is_file() for place in places)
    assert [str(folder) in capsys.readouterr().err for _, folder in jobs[:1]] == [True]
