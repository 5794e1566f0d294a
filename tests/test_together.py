"""Several subjects tuned and drawn in one run: the results of a run each, found by the same names."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from safetensors.torch import load_file

from quantbooth import export, pipeline
from quantbooth.artifacts.image_set import read_requests
from quantbooth.calibrate import calibrate
from quantbooth.errors import UserError
from quantbooth.plan import Plan
from quantbooth.sample import draw_all, sample, sample_all
from quantbooth.together import base_of
from quantbooth.tune import tune, tune_all

Configure = Callable[..., DictConfig]
Compose = Callable[..., DictConfig]
Typed = Callable[..., tuple[int, str]]
SUBJECTS = ("toy_mug", "toy_duck", "toy_fish")
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=2", "prior.count=3"),
    *("tuner.steps=4", "tuner.sample_every=2", "protocol.every=25", "tuner.learning_rate=0.02"),
)
KINDS = {
    "experts": ("strategy=s2",),
    "one outside its interval": ("strategy=s1", "tuner.checkpointing=true", "tuner.cache=false"),
    "trained apart": ("strategy=s2", "strategy.apart=true", "tuner.average=0.9"),
    "everything in a set": ("tuner=scales_in_out", "tuner.biases=true", "tuner.norms=true", "prior=none"),
    "adapters": ("tuner=qlora", "strategy=s2"),
}


@pytest.fixture(scope="module")
def configure(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """Makes a configuration on a tiny untrained base that is quantized already, in the store of that name."""
    place = tmp_path_factory.mktemp("together")

    def make(store: str, *options: str) -> DictConfig:
        return compose(place / store, *QUICK, *options)

    for store in ("together", "alone"):
        calibrate(make(store))
    return make


def of_each(configure: Configure, store: str, *overrides: str) -> list[DictConfig]:
    return [configure(store, *overrides, f"subject={subject}") for subject in SUBJECTS]


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_each_subject_learns_what_it_learns_alone(configure: Configure, options: tuple[str, ...]) -> None:
    options = (*options, "protocol.at_steps=[2]")
    together = tune_all(of_each(configure, "together", *options))
    alone = [tune(cfg) for cfg in of_each(configure, "alone", *options)]
    assert [folder.name for folder in together] == [folder.name for folder in alone]
    learned = []
    for one, other in zip(together, alone, strict=True):
        assert {file.name for file in one.iterdir()} == {file.name for file in other.iterdir()}
        for step in (2, 4):
            mine, theirs = (load_file(folder / f"step-00000{step}.safetensors") for folder in (one, other))
            assert mine.keys() == theirs.keys()
            for name, numbers in mine.items():
                torch.testing.assert_close(numbers, theirs[name], rtol=0, atol=2e-5)
        learned.append(mine)
    name = next(name for name in learned[0] if name.endswith(("gain_out", "lora_B")))
    assert (learned[0][name] - learned[1][name]).abs().max() > 1e-3


def test_what_a_run_cost_is_shared(configure: Configure) -> None:
    cfgs = of_each(configure, "together", "strategy=tas", "seed=7")
    tune_all(cfgs)
    costs = [Plan(cfg).tuned.manifest().measured for cfg in cfgs]
    assert [cost["subjects_together"] for cost in costs] == [3, 3, 3]
    assert len({cost["seconds"] for cost in costs}) == 1
    alone = tune(configure("together", "strategy=tas", "seed=8"))
    measured = Plan(configure("together", "strategy=tas", "seed=8")).tuned.manifest().measured
    assert alone.name.startswith("toy_mug")
    assert "subjects_together" not in measured
    assert {name: costs[0][name] for name in ("trainable", "samples_seen", "samples_per_expert")} == {
        name: measured[name] for name in ("trainable", "samples_seen", "samples_per_expert")
    }


def test_subjects_that_are_there_already_are_left_alone(configure: Configure) -> None:
    cfgs = of_each(configure, "together", "seed=11")
    first = tune(cfgs[1])
    before = {file: file.stat().st_mtime_ns for file in first.iterdir()}
    tune_all(cfgs)
    assert before == {file: file.stat().st_mtime_ns for file in first.iterdir()}
    costs = [Plan(cfg).tuned.manifest().measured.get("subjects_together") for cfg in cfgs]
    assert costs == [2, None, 2]


def test_a_mixed_batch_gives_every_row_its_own_subjects_unet(configure: Configure) -> None:
    cfgs = of_each(configure, "together", "strategy=s2")
    tune_all(cfgs)
    plans = [Plan(cfg) for cfg in cfgs]
    base, route = base_of(plans, 4)
    assert route is not None
    draw = torch.Generator().manual_seed(0)
    x, text = torch.randn(6, 24, 8, 8, generator=draw), torch.randn(6, 26, 128, generator=draw)
    t, whose = torch.tensor([100, 500, 900, 500, 100, 500]), torch.tensor([2, 0, 1, 1, 0, 2])
    route.choose(whose)
    with torch.no_grad():
        mixed = base.denoiser(x, t, encoder_hidden_states=text).sample
        apart = [plan.tuned_base(4).denoiser for plan in plans]
        for i in range(6):
            rows = [denoiser(x[i][None], t[i], encoder_hidden_states=text[i][None]).sample[0] for denoiser in apart]
            distances = [float((mixed[i] - row).abs().max()) for row in rows]
            assert distances[whose[i]] < 1e-5
            assert min(distance for place, distance in enumerate(distances) if place != whose[i]) > 1e-4


def test_pictures_drawn_together_are_those_drawn_alone(configure: Configure) -> None:
    options = ("protocol.every=9", "protocol.batch=4", "strategy=s2")
    cfgs = of_each(configure, "alone", *options)
    for cfg in cfgs:
        tune(cfg)
    alone = [folder for cfg in cfgs for folder in sample(cfg)]
    pictures = {folder.name: pixels(folder) for folder in alone}
    again = of_each(configure, "together", *options)
    tune_all(again)
    folders = sample_all(again)
    assert {folder.name for folder in folders} == set(pictures)
    assert len(folders) == 2 * len(SUBJECTS)
    for folder in folders:
        assert np.abs(pixels(folder) - pictures[folder.name]).max() <= 1
        assert (folder / "references" / "0.png").is_file()


def pixels(folder: Path) -> np.ndarray:
    files = [folder / request.file for request in read_requests(folder)]
    return np.stack([np.asarray(Image.open(file)).astype(int) for file in files])


def test_a_persons_sentence_is_drawn_of_every_subject(configure: Configure, capsys: pytest.CaptureFixture[str]) -> None:
    cfgs = of_each(configure, "together", "strategy=s2", 'prompt="a {} on the beach"', "protocol.seeds=[3]")
    tune_all(cfgs)
    drawn = draw_all(cfgs)
    said = capsys.readouterr().out
    assert said.count("1 pictures in ") == 3
    assert len(drawn) == 6
    assert {path.parent.name.split("-")[0] for path in drawn} == set(SUBJECTS)
    one = of_each(configure, "together", "strategy=s2", 'prompt="a {}"', "scale_sets=some")
    with pytest.raises(UserError, match="scale_sets are those of one subject, got 3 subjects"):
        draw_all(one)


@pytest.mark.parametrize("options", [("quant=fp", "tuner=full"), ("tuner.identifier=true",)])
def test_what_is_there_once_cannot_be_shared(configure: Configure, options: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="several subjects learn together by scales or adapters"):
        tune_all(of_each(configure, "together", *options))


def test_the_whole_chain_of_a_list_of_subjects(typed: Typed, tmp_path: Path) -> None:
    asked = ("subject=[toy_mug,toy_duck]", "tuner.together=true")
    assert typed(pipeline.main, *QUICK, *asked) == (0, "")
    tuned = sorted(folder.name.split("-")[0] for folder in (tmp_path / "out/store/scale_sets").iterdir())
    assert tuned == ["toy_duck", "toy_mug"]
    assert len(list((tmp_path / "out/store/scores").iterdir())) == 4
    table = (tmp_path / "out/report/table.csv").read_text()
    assert "s2" not in table
    assert typed(pipeline.main, *QUICK, "-m", "subject=[toy_mug,toy_duck],[toy_duck,toy_fish]", asked[1]) == (0, "")
    assert len(list((tmp_path / "out/store/scale_sets").iterdir())) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("subject=[toy_mug,toy_duck]",),
            "subject=[toy_mug,toy_duck] is several subjects at once: add tuner.together=true to tune them in one run, "
            "or sweep over them with -m subject=toy_mug,toy_duck",
        ),
        (("subject=[toy_mug,toy_mug]", "tuner.together=true"), "subject=[toy_mug,toy_mug] names a subject twice"),
        (("tuner.together=1",), "tuner.together must be true or false, got 1"),
    ],
)
def test_a_list_that_cannot_be_is_refused_in_one_line(
    typed: Typed, options: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    assert typed(pipeline.main, *QUICK, *options) == (2, f"quantbooth: {said}\n")
    assert not (tmp_path / "out/store").exists()


def test_a_command_for_one_subject_says_so(typed: Typed) -> None:
    code, said = typed(export.main, *QUICK, "subject=[toy_mug,toy_duck]", "tuner.together=true")
    assert (code, said) == (2, "quantbooth: this command takes one subject, got 2; sweep over them with -m\n")
