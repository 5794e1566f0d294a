"""What a real base, machine or judge cannot do is refused by every command before any work, and leaves no store."""

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.utils._paths import filter_repo_objects
from omegaconf import DictConfig
from PIL import Image
from safetensors.torch import save_file

from quantbooth.commands.calibrate import calibrate
from quantbooth.commands.evaluate import evaluate
from quantbooth.commands.export import check_job as check_export
from quantbooth.commands.pipeline import check, check_job
from quantbooth.commands.pipeline import job as pipeline
from quantbooth.commands.sample import sample
from quantbooth.commands.tune import tune
from quantbooth.diffusion import sources
from quantbooth.evaluation.locators import WholeImage
from quantbooth.evaluation.scorer import Scorer
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth_toyworld.judges import load_locator, load_oracle, load_scorer
from quantbooth_toyworld.shipped import judges_folder

Compose = Callable[..., DictConfig]
QUICK = (
    *("base=folder", "base.resolution=32", "sampler.steps=2", "prior=none", "tuner.steps=2"),
    "preview.validation_steps=0",
)
PHOTOS = "subject=folder subject.path=PHOTOS subject.class_word=mug"
COMMANDS: dict[str, Callable[[DictConfig], Any]] = {
    "calibrate": lambda cfg: calibrate(Run(cfg)),
    "tune": lambda cfg: tune(Run(cfg)),
    "sample": lambda cfg: sample(Run(cfg)),
    "pipeline": pipeline,
}
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (80, 80), (40 * number, 90, 200)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("base.timesteps=500 base.zones={}", "^base.timesteps must be 1000, got 500$"),
        (
            "base.resolution=64 subject=folder subject.class_word=mug subject.path=PHOTOS",
            "^base.resolution must be 32, .* got 64$",
        ),
        ("sampler.steps=1000", "sampler.scheduler=ddim .*sampler.steps=1000; choose fewer steps$"),
        pytest.param("trainer=gpu", "^cannot create the trainer: .*gpu", marks=NO_GPU),
        ("resources.kernels=fused", "fused.* needs? .*; (choose|install)"),
    ],
)
def test_what_cannot_be_is_refused_by_every_command(
    compose: Compose, tmp_path: Path, photos: Path, command: str, words: str, told: str
) -> None:
    cfg = compose(tmp_path / "out", *QUICK, *words.replace("PHOTOS", str(photos)).split())
    with pytest.raises(UserError, match=told):
        COMMANDS[command](cfg)
    assert not (tmp_path / "out" / "store").exists()


def test_an_export_is_refused_for_a_zone_that_its_strategy_lacks(compose: Compose, tmp_path: Path) -> None:
    for strategy in ("s2", "baseline"):
        cfg = compose(tmp_path / "out", *QUICK, "base.resolution=32", f"strategy={strategy}", "strength={contents: 1}")
        with pytest.raises(UserError, match=f"^strength .*'contents', {strategy} has"):
            check_export(cfg)


class Hub:
    """A model on the hub, of which files are copied into a cache as they are asked for."""

    def __init__(self, model: Path, cache: Path) -> None:
        self.model, self.cache = model, cache

    def download(self, name: str, *, revision: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        assert (name, revision) == ("owner/model", COMMIT)
        files = [str(file.relative_to(self.model)) for file in self.model.rglob("*") if file.is_file()]
        for file in filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            (self.cache / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.model / file, self.cache / file)
        return str(self.cache)

    @property
    def weights(self) -> int:
        return len(list(self.cache.rglob("*.safetensors")))


COMMIT = "0123456789" * 4
HUB = ("base=folder", "base.path=owner/model", f"base.revision={COMMIT}")


@pytest.fixture
def hub(base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(base_folder, tmp_path / "cache")
    monkeypatch.setattr(sources, "snapshot_download", made.download)
    return made


@pytest.mark.parametrize("words", ["base.resolution=64", "base.resolution=32 base.timesteps=500"])
def test_a_model_of_the_hub_that_does_not_fit_is_refused_before_its_weights_are_fetched(
    compose: Compose, hub: Hub, tmp_path: Path, words: str
) -> None:
    option, _, value = words.split()[-1].partition("=")
    with pytest.raises(UserError, match=rf"^{option} must be .* got {value}$"):
        Run(compose(tmp_path / "out", *HUB, *words.split(), "base.zones={}")).check("base_folder")
    assert (hub.cache / "unet" / "config.json").is_file() and hub.weights == 0


def test_a_model_of_the_hub_that_is_not_supported_is_refused_before_its_weights_are_fetched(
    compose: Compose, hub: Hub, tmp_path: Path
) -> None:
    hub.model = Path(shutil.copytree(hub.model, tmp_path / "model"))
    file = hub.model / "unet" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "in_channels": 9}))
    with pytest.raises(UserError, match=r"unet.config\.json: in_channels"):
        Run(compose(tmp_path / "out", *HUB, "base.resolution=32")).check("base_folder")
    assert hub.weights == 0


def test_a_model_of_the_hub_that_fits_is_fetched_whole(compose: Compose, hub: Hub, tmp_path: Path) -> None:
    assert Run(compose(tmp_path / "out", *HUB, "base.resolution=32")).base_folder == hub.cache
    assert hub.weights == 3


def test_the_weights_of_a_configuration_are_not_fetched(hub: Hub, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    assert sources.config_folder(str(file), COMMIT, "owner/model") == hub.cache
    assert hub.weights == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("subject=folder", "subject.class_word=o"), "the toy scorer has no word 'o'"),
        (("subject=folder", "subject.class_word=mug", "++subject.templates=['a {} in Rome']"), "no word 'rome'"),
        (("scorer=clip_b32", "scorer.encoder.model=local-dir:nowhere"), "nowhere.* cannot be loaded"),
        (("strength={contents: 1}",), "contents"),
        (("method=float", "unconditional_strength=0"), "^unconditional_strength .* full has one for all$"),
        (("negative_prompt=blue", "sampler.guidance=1"), "^negative_prompt .*guidance=1, .*leave out one of them$"),
        (("unconditional_strength=0", "sampler.guidance=1"), "^unconditional_strength .*sampler.guidance=1"),
        (("scale_sets=elsewhere",), "^scale_sets is an option of quantbooth-sample"),
        (("strategy=s1", "strategy.interval=[5,15]"), r"^none of the 2 timesteps .* is in selected \[5, 15\)"),
        (("resources.group_offload=true",), "^resources.group_offload=true has no effect on trainer.accelerator=cpu"),
        (("+callbacks.nothing._target_=lightning.pytorch.Nothing",), "Nothing"),
        (
            ("subjects=[toy_mug,toy_duck]", "+trainer.gradient_clip_val=1.0"),
            "^trainer.gradient_clip_val would clip the norm over all subjects",
        ),
    ],
)
def test_the_chain_refuses_what_its_last_step_cannot_do(
    compose: Compose, tmp_path: Path, photos: Path, words: tuple[str, ...], told: str
) -> None:
    own = [f"subject.path={photos}"] if "subject=folder" in words else []
    with pytest.raises(UserError, match=told):
        pipeline(compose(tmp_path / "out", *QUICK, *words, *own))
    assert not (tmp_path / "out" / "store").exists()


@pytest.mark.chain
def test_jobs_of_one_report_need_one_scorer_one_protocol_and_one_folder(compose: Compose, tmp_path: Path) -> None:
    def told(*words: str) -> dict[str, object]:
        return check_job(compose(tmp_path / "out", *QUICK, *words))

    first = told()
    assert told("seed=1", "quant=w8", "strategy=s2") == first
    assert {**first, **told("subject=toy_duck")} == {**told("subject=toy_duck"), **first}
    for word in ("protocol.seeds=[7]", "protocol.prompt_stride=2", "scorer.oracle=null", "report.folder=elsewhere"):
        other = told(word)
        assert other.keys() == first.keys() and other != first
    assert told("report.notes=['${seed}']", "seed=1") != told("report.notes=['${seed}']")
    assert not (tmp_path / "out" / "store").exists()


def test_a_lora_of_another_base_is_refused_before_work(compose: Compose, tmp_path: Path) -> None:
    place = "unet.conv_in"
    save_file({f"{place}.lora_{half}.weight": torch.ones(3, 3) for half in "AB"}, tmp_path / "style.safetensors")
    with pytest.raises(UserError, match=f"style.safetensors must have A and B of .* for '{place}'"):
        pipeline(compose(tmp_path / "out", *QUICK, f"lora=[{tmp_path}/style.safetensors]"))
    assert not (tmp_path / "out" / "store").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("subject=folder", "subject.class_word=o"), "the toy scorer has no word 'o'"),
        (("subject=folder", "subject.class_word=mug", "++subject.templates=['a {} in Rome']"), "no word 'rome'"),
        (("scorer=clip_b32", "scorer.encoder.model=local-dir:nowhere"), "nowhere.* cannot be loaded"),
    ],
)
def test_scoring_refuses_what_it_cannot_judge_before_it_asks_for_pictures(
    compose: Compose, tmp_path: Path, photos: Path, words: tuple[str, ...], told: str
) -> None:
    own = [f"subject.path={photos}"] if "subject=folder" in words else []
    with pytest.raises(UserError, match=told):
        evaluate(Run(compose(tmp_path / "out", *QUICK, *words, *own)))
    assert not (tmp_path / "out" / "store").exists()


@pytest.mark.parametrize("option", ["paths.store", "paths.outputs", "paths.logs", "pictures", "export.folder"])
def test_outputs_inside_the_base_are_refused(compose: Compose, base_folder: Path, tmp_path: Path, option: str) -> None:
    inside = f"{option}={base_folder}/unet/../mine"
    with pytest.raises(UserError, match=r"^(paths\.\w+|pictures|export\.folder)=\S+ is inside the base"):
        Run(compose(tmp_path / "out", *QUICK, inside)).check("base_folder")
    assert not (base_folder / "mine").exists()


def test_a_scorer_that_was_tried_needs_no_memory_while_tuning(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Scorer]] = []
    whole = Scorer.__init__

    def noted(self: Scorer, *args: Any, **kwargs: Any) -> None:
        made.append(weakref.ref(self))
        whole(self, *args, **kwargs)

    monkeypatch.setattr(Scorer, "__init__", noted)
    run = Run(compose(tmp_path / "out", *QUICK, "subjects=[toy_mug,toy_duck]"))
    check(run)
    gc.collect()
    assert [tried() for tried in made] == [None]


def scorer(**judges: Any) -> Scorer:
    return Scorer(load_scorer(judges_folder()), **{"locator": WholeImage(), **judges})


PICTURE = torch.full((1, 3, 32, 32), 0.5)


@pytest.mark.parametrize(
    ("judges", "picture", "texts", "class_word", "values", "told"),
    [
        ({}, PICTURE, ["a photo of a mug", "a zebra"], "mug", [], "no word 'zebra'"),
        ({}, torch.zeros(1, 3, 64, 64), ["a mug"], "mug", [], "scorer reads 32 x 32 pictures, got 64 x 64"),
        (
            {"locator": load_locator},
            torch.zeros(1, 3, 64, 64),
            ["mug"],
            "mug",
            [],
            "reads 32 x 32 pictures, got 64 x 64",
        ),
        ({"oracle": load_oracle}, PICTURE, ["a mug"], "dog", [], "scorer.oracle knows no class_word 'dog', but "),
        ({"oracle": load_oracle}, PICTURE, ["a mug"], "mug", [{"hat": "x"}], "scorer.oracle knows no hat 'x'"),
        ({"oracle": load_oracle}, PICTURE, ["a mug"], "mug", [{"colour": "x"}], "scorer.oracle knows no colour 'x'"),
    ],
)
def test_a_scorer_names_what_it_cannot_judge(
    judges: dict[str, Any],
    picture: torch.Tensor,
    texts: list[str],
    class_word: str,
    values: list[dict[str, str]],
    told: str,
) -> None:
    made = scorer(**{name: load(judges_folder()) for name, load in judges.items()})
    with pytest.raises(UserError, match=told):
        made.check(picture, texts, class_word, values)


def test_a_scorer_takes_what_it_can_judge() -> None:
    judges = {"locator": load_locator(judges_folder()), "oracle": load_oracle(judges_folder())}
    scorer(**judges).check(PICTURE, ["a photo of a mug"], "mug", [{"colour": "red"}])
