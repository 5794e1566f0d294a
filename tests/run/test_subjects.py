"""Several subjects tuned and sampled in one run: results equal those of separate runs, under the same names."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from safetensors.torch import load_file

from quantbooth import programs
from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.sample import generate, sample
from quantbooth.commands.tune import tune
from quantbooth.run.load import load
from quantbooth.run.models import tuned_base
from quantbooth.run.reopened import run_of
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.sampling.image_set import read_requests

pytestmark = pytest.mark.chain

Configure = Callable[..., DictConfig]
Compose = Callable[..., DictConfig]
Typed = Callable[..., tuple[int, str]]
SUBJECTS = ("toy_mug", "toy_duck", "toy_fish")
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=2", "prior.num_class_images=3"),
    *(
        "tuner.steps=4",
        "trainer.log_every_n_steps=1",
        "preview.validation_steps=2",
        "protocol.prompt_stride=25",
        "tuner.learning_rate=0.02",
    ),
)
KINDS = {
    "experts": ("strategy=s2",),
    "one outside its interval": (
        "strategy=s1",
        "resources.gradient_checkpointing=true",
        "resources.cache_latents=false",
    ),
    "trained apart": ("strategy=s2", "strategy.apart=true", "tuner.ema_decay=0.9"),
    "everything in a set": ("tuner.biases=true", "tuner.norms=true", "prior=none", "prior.num_class_images=0"),
    "adapters": ("tuner=qlora", "strategy=s2"),
    "graded": ("strategy=graded", "resources.gradient_checkpointing=true"),
    "graded adapters": ("tuner=qlora", "strategy=graded"),
    "branching": ("strategy=s2_from_s1", "tuner.pull=0.1"),
    "two sets added": ("strategy=s1s2", "strategy.wide=[100,900]"),
    "branching adapters": ("tuner=qlora", "strategy=s2_from_s1"),
}
LONG = ("adapters", "graded adapters", "branching")
"""What adapters, gains and their strategies do in other combinations of KINDS."""


@pytest.fixture(scope="module")
def configure(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """Makes a configuration on a tiny untrained base that is quantized already, in the store of that name."""
    place = tmp_path_factory.mktemp("together")

    def make(store: str, *options: str) -> DictConfig:
        return compose(place / store, *QUICK, *options)

    for store in ("together", "alone"):
        calibrate(Run(make(store)))
    return make


def of_all(configure: Configure, store: str, *overrides: str) -> Run:
    return Run(configure(store, *overrides, f"subjects=[{','.join(SUBJECTS)}]"))


def of_each(configure: Configure, store: str, *overrides: str) -> list[Run]:
    return [Run(configure(store, *overrides, f"subject={subject}")) for subject in SUBJECTS]


@pytest.mark.parametrize(
    "options",
    [pytest.param(words, marks=pytest.mark.slow if kind in LONG else [], id=kind) for kind, words in KINDS.items()],
)
def test_each_subject_learns_what_it_learns_alone(configure: Configure, options: tuple[str, ...]) -> None:
    exact = () if "prior=none" in options else ("prior=generated",)  # see docs/limitations.md on prior.target=base
    options = (*options, *exact, "protocol.eval_steps=[2]")
    together = tune(of_all(configure, "together", *options))
    runs = of_each(configure, "alone", *options)[: None if "strategy=s2" in options else 2]
    alone = [tune(run)[0] for run in runs]
    assert [folder.name for folder in together[: len(runs)]] == [folder.name for folder in alone]
    learned = []
    for one, other in zip(together, alone, strict=False):
        assert {file.name for file in one.iterdir()} == {file.name for file in other.iterdir()}
        assert (one / "config.yaml").read_text() == (other / "config.yaml").read_text().replace("/alone", "/together")
        for step in (2, 4):
            mine, theirs = (load_file(folder / f"step-00000{step}.safetensors") for folder in (one, other))
            assert mine.keys() == theirs.keys()
            for name, numbers in mine.items():
                torch.testing.assert_close(numbers, theirs[name], rtol=0, atol=2e-5)
        learned.append(mine)
    name = next(name for name in learned[0] if name.endswith(("gain_out", "lora_B")))
    assert (learned[0][name] - learned[1][name]).abs().max() > 1e-3


def test_what_a_run_cost_is_shared(configure: Configure) -> None:
    run = of_all(configure, "together", "strategy=tas", "seed=7")
    tune(run)
    costs = [one.tuned.manifest().measured for one in run.subjects]
    assert [cost["subjects_together"] for cost in costs] == [3, 3, 3]
    assert len({cost["seconds"] for cost in costs}) == 1
    alone = Run(configure("together", "strategy=tas", "seed=8"))
    assert tune(alone)[0].name.startswith("toy_mug")
    measured = alone.only.tuned.manifest().measured
    assert "subjects_together" not in measured
    assert {name: costs[0][name] for name in ("trainable", "samples_seen")} == {
        name: measured[name] for name in ("trainable", "samples_seen")
    }
    assert [sum(cost["samples_per_expert"]) for cost in costs] == [measured["samples_seen"]] * 3


def test_subjects_that_are_there_already_are_left_alone(configure: Configure) -> None:
    (first,) = tune(of_each(configure, "together", "seed=11")[1])
    before = {file: file.stat().st_mtime_ns for file in first.iterdir()}
    run = of_all(configure, "together", "seed=11")
    tune(run)
    assert before == {file: file.stat().st_mtime_ns for file in first.iterdir()}
    costs = [one.tuned.manifest().measured.get("subjects_together") for one in run.subjects]
    assert costs == [2, None, 2]


def test_a_mixed_batch_gives_every_row_its_own_subjects_unet(configure: Configure) -> None:
    run = of_all(configure, "together", "strategy=s2")
    tune(run)
    base, route = tuned_base(run, 4)
    assert route is not None
    generate = torch.Generator().manual_seed(0)
    x, text = torch.randn(6, 24, 8, 8, generator=generate), torch.randn(6, 26, 128, generator=generate)
    t, whose = torch.tensor([100, 500, 900, 500, 100, 500]), torch.tensor([2, 0, 1, 1, 0, 2])
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="a subject must be chosen for each of 6 rows, got nothing"):
            base.denoiser(x, t, encoder_hidden_states=text)
        route.choose(whose)
        mixed = base.denoiser(x, t, encoder_hidden_states=text).sample
        apart = [tuned_base(alone, 4)[0].denoiser for alone in of_each(configure, "together", "strategy=s2")]
        for i in range(6):
            rows = [denoiser(x[i][None], t[i], encoder_hidden_states=text[i][None]).sample[0] for denoiser in apart]
            distances = [float((mixed[i] - row).abs().max()) for row in rows]
            assert distances[whose[i]] < 1e-5
            assert min(distance for place, distance in enumerate(distances) if place != whose[i]) > 1e-4


def test_subjects_tuned_by_different_methods_are_not_mixed(configure: Configure) -> None:
    words = (("strategy=s2",), ("strategy=tas", "strategy.count=3"))
    runs = [
        Run(configure("together", *word, f"subject={subject}")) for word, subject in zip(words, SUBJECTS, strict=False)
    ]
    folders = [tune(run)[0] for run in runs]
    with pytest.raises(UserError, match="were tuned by different methods; load them one by one"):
        load(runs[0].base_folder, "folder", folders)


def test_pictures_drawn_together_are_those_drawn_alone(configure: Configure) -> None:
    options = ("protocol.prompt_stride=9", "protocol.batch=4", "strategy=s2")
    runs = of_each(configure, "alone", *options)
    for run in runs:
        tune(run)
    pictures = {folder.name: pixels(folder) for run in runs for folder in sample(run)}
    again = of_all(configure, "together", *options)
    tune(again)
    folders = sample(again)
    assert {folder.name for folder in folders} == set(pictures)
    assert len(folders) == 2 * len(SUBJECTS)
    for folder in folders:
        assert np.abs(pixels(folder) - pictures[folder.name]).max() <= 1
        assert (folder / "references" / "0.png").is_file()


def pixels(folder: Path) -> np.ndarray:
    files = [folder / request.file for request in read_requests(folder)]
    return np.stack([np.asarray(Image.open(file)).astype(int) for file in files])


def test_a_persons_sentence_is_drawn_of_every_subject(configure: Configure, capsys: pytest.CaptureFixture[str]) -> None:
    run = of_all(configure, "together", "strategy=s2", 'prompt="a {} on the beach"', "protocol.seeds=[3]")
    tune(run)
    drawn = generate(run)
    assert capsys.readouterr().out.count("1 pictures in ") == 3
    assert len(drawn) == 6
    assert {path.parent.name.split("-")[0] for path in drawn} == set(SUBJECTS)
    with pytest.raises(UserError, match="scale_sets .* one subject; leave .*subjects or scale_sets"):
        run_of(of_all(configure, "together", "strategy=s2", 'prompt="a {}"', "scale_sets=some").cfg)


@pytest.mark.parametrize("options", [("quant=fp", "tuner=full"), ("tuner.identifier=true",)])
def test_what_is_there_once_cannot_be_shared(configure: Configure, options: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"subjects=\[a,b\] shares a run by scales or adapters"):
        tune(of_all(configure, "together", *options))


def test_a_calibration_asks_nothing_of_the_tuner(configure: Configure) -> None:
    """Neither a tuner that needs a float base, nor a subject that is not there, concerns it."""
    words = ("tuner=lora", "subject=folder", "subject.path=nowhere", "subject.class_word=dog", "strategy=s2")
    assert calibrate(Run(configure("together", *words))).parent.name == "quantized_base"


def test_the_whole_chain_of_a_list_of_subjects(typed: Typed, tmp_path: Path) -> None:
    assert typed(programs.pipeline, *QUICK, "subjects=[toy_mug,toy_duck]") == (0, "")
    tuned = sorted(folder.name.split("-")[0] for folder in (tmp_path / "out/store/scale_sets").iterdir())
    assert tuned == ["toy_duck", "toy_mug"]
    assert len(list((tmp_path / "out/store/scores").iterdir())) == 4
    (table,) = (file.read_text() for file in tmp_path.glob("out/reports/*/table.csv"))
    assert "s2" not in table
    assert typed(programs.pipeline, *QUICK, "-m", "subjects=[toy_mug,toy_duck],[toy_duck,toy_fish]") == (0, "")
    assert len(list((tmp_path / "out/store/scale_sets").iterdir())) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("subject=[toy_mug,toy_duck]",),
            "subject=[a,b] merges its members; write subjects=[a,b] for one run, -m subject=a,b for each",
        ),
        (
            ("subjects=[toy_mug,toy_mug]",),
            "subjects must be a list [a,b,...], not empty, all different, each a text, or null, "
            "got ['toy_mug', 'toy_mug']",
        ),
        (
            ("subjects=[toy_mug,toy_duck]", "subject=toy_fish"),
            "subject=toy_fish is about one subject, subjects=[toy_mug,toy_duck] names several; leave one out",
        ),
        (
            ("subjects=[toy_mug,toy_duck]", "subject.name=rex"),
            "subject.name=rex is about one subject, subjects=[toy_mug,toy_duck] names several; leave one out",
        ),
    ],
)
def test_a_list_that_cannot_be_is_refused_in_one_line(
    typed: Typed, options: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    assert typed(programs.pipeline, *QUICK, *options) == (2, f"quantbooth: {said}\n")
    assert not (tmp_path / "out/store").exists()


def test_a_subject_that_there_is_not_is_refused_by_its_name(typed: Typed, tmp_path: Path) -> None:
    code, said = typed(programs.pipeline, *QUICK, "subjects=[toy_mug,toy_mg]")
    assert code == 2
    assert said.startswith("quantbooth: 'subject' has no option 'toy_mg' (did you mean 'toy_mug'?); choose from ")
    assert not (tmp_path / "out/store").exists()


def test_a_command_for_one_subject_says_so(typed: Typed) -> None:
    code, said = typed(programs.export, *QUICK, "subjects=[toy_mug,toy_duck]")
    assert code == 2
    assert said.splitlines()[-1] == "quantbooth: this command takes one subject, got 2; sweep over them with -m"
