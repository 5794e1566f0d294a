"""The configuration: every option composes and builds what it promises, and borders of bases are legal zones."""

import hashlib
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import get_object
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf, open_dict
from PIL import Image
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from composing import composed, filled
from experiments.transformer_numbers import LINEAR
from quantbooth.data.dreambooth import NAMES
from quantbooth.data.photos import photo_subject
from quantbooth.data.prompts import prompts_for
from quantbooth.data.protocol import Protocol
from quantbooth.data.questions import Questions
from quantbooth.data.subjects import Subject
from quantbooth.diffusion.sampler import Sampler
from quantbooth.diffusion.schedule import Schedule
from quantbooth.evaluation.encoders import ImageEncoder
from quantbooth.evaluation.locators import Locator
from quantbooth.evaluation.scorer import Scorer
from quantbooth.quant.observers import ScaleSearch
from quantbooth.run.degradation import Degradation
from quantbooth.run.run import Run
from quantbooth.runtime.config import build, choices, conf_dir, plain
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.loggers import trackers_of
from quantbooth.timesteps.samplers import TimestepSampler
from quantbooth.timesteps.strategies import Strategy
from quantbooth.timesteps.zones import zones_from_borders
from quantbooth.tuning.optimizers import optimizer_factory
from quantbooth.tuning.tuner import Tuner
from quantbooth_toyworld.models import SCHEDULE

FILES = sorted(conf_dir().rglob("*.yaml"))
APART = ("method", "experiment", "preset", "lr_scheduler", "search")
"""Groups that choose options of other groups."""
OPTIONS = {
    group.name: choices(group) for group in sorted(conf_dir().iterdir()) if group.is_dir() and group.name not in APART
}
ROWS = [
    tuple(f"{group}={option}" for group, option in zip(OPTIONS, row, strict=True) if option)
    for row in zip_longest(*OPTIONS.values())
]
"""Few compositions in which every option of every group occurs once."""


def with_option(group: str, option: str) -> DictConfig:
    """A copy of the composition in which the option occurs."""
    row = next(row for row in ROWS if f"{group}={option}" in row)
    return OmegaConf.create(OmegaConf.to_container(composed(*row)))  # type: ignore[return-value]


def options(group: str, *left_out: str) -> list[DictConfig]:
    return [with_option(group, option) for option in OPTIONS[group] if option not in left_out]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_every_option_of_every_group_composes_and_resolves(row: tuple[str, ...]) -> None:
    assert plain(filled(with_option(*row[0].split("="))))["seed"] == 0


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(conf_dir()).as_posix())
def test_every_target_exists(file: Path) -> None:
    for target in targets(yaml.safe_load(file.read_text())):
        assert callable(get_object(target)), target


def targets(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [found for value in node.values() for found in targets(value)] + [
            node[key] for key in ("_target_",) if key in node
        ]
    return [found for value in node for found in targets(value)] if isinstance(node, list) else []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(conf_dir()).as_posix())
def test_keys_are_written_once(file: Path) -> None:
    """YAML would take the last without a word."""

    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key) for key, _ in node.value]
            assert len(keys) == len(set(keys)), keys
            return super().construct_mapping(node, deep)

    assert yaml.load(file.read_text(), Loader=Strict) is not None


def test_groups_build_what_they_are_for(tmp_path: Path) -> None:
    for group, kind in (("strategy", Strategy), ("sampler", Sampler), ("protocol", Protocol), ("locator", Locator)):
        for cfg in options(group, "clipseg", "owlv2"):
            OmegaConf.update(cfg, "base", composed().base, merge=False)
            OmegaConf.update(cfg, "tuner.steps", 10, force_add=True)
            assert isinstance(build(cfg[group], kind), kind)
    for cfg in options("timesteps", "file", "shifted"):  # of a file, of a flow
        OmegaConf.update(cfg, "base", composed().base, merge=False)
        assert isinstance(build(cfg.timesteps, TimestepSampler), TimestepSampler)
    for cfg in options("tuner"):
        assert isinstance(build(cfg.tuner.learner, Tuner), Tuner)
    for cfg in options("optimizer"):
        OmegaConf.update(cfg, "tuner", composed().tuner)
        made = optimizer_factory(plain(cfg.optimizer))([{"params": [torch.nn.Parameter(torch.zeros(1))]}])
        assert isinstance(made, torch.optim.Optimizer)
        assert made.param_groups[0]["lr"] == composed().tuner.learning_rate
    for cfg in options("trainer", "gpu"):
        assert isinstance(build(cfg.trainer, Trainer, max_steps=3, logger=False), Trainer)
    for cfg in options("logger", "mlflow"):
        OmegaConf.update(cfg, "paths.outputs", str(tmp_path))
        (tracker,) = trackers_of(cfg, "a-run")
        assert isinstance(tracker, Logger)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_every_search_finds_scales_at_every_width(bits: int) -> None:
    for cfg in options("calibration"):
        OmegaConf.update(cfg, "quant", with_option("quant", f"w{bits}").quant)
        assert build(cfg.calibration.search, ScaleSearch).grid.bits == bits
        assert plain(cfg.quant)["name"] == f"w{bits}"


def test_the_toy_scorer_is_encoder_locator_and_oracle() -> None:
    scorer = build(composed().scorer, Scorer)
    assert scorer.name.startswith("toy scorer ")
    assert " | toy locator " in scorer.name
    assert " | toy oracle " in scorer.name


@pytest.mark.parametrize("name", [option for option in OPTIONS["subject"] if option.startswith("toy_")])
def test_every_toy_subject_has_pictures_of_the_base_it_is_for(name: str) -> None:
    cfg = with_option("subject", name)
    OmegaConf.update(cfg, "base", composed().base)
    subject = build(cfg.subject.pictures, Subject)
    assert subject.name == name == cfg.subject.name
    assert subject.photos.shape == (5, 3, cfg.base.resolution, cfg.base.resolution)
    assert len(subject.prompts) == 25
    assert subject.reference_masks is None  # the toy locator looks at references too


def test_a_folder_of_photos_is_a_subject_of_the_bases_size_and_identifier(tmp_path: Path) -> None:
    Image.new("RGB", (80, 60), "red").save(tmp_path / "1.png")
    cfg = with_option("subject", "folder")
    OmegaConf.update(cfg, "base", composed().base)
    OmegaConf.update(cfg, "subject.path", str(tmp_path))
    OmegaConf.update(cfg, "subject.class_word", "dog")
    subject = build(cfg.subject.pictures, Subject)
    assert subject.fingerprint == photo_subject(str(tmp_path), "dog", "sks", False, 32).fingerprint


CLASSES = "b578b568dca53dd4d14437267d654f6beed214a21e7ddaabe50724122f10d7de"
"""sha256 of the lines "name class" of prompts_and_classes.txt, as published, without the heading."""


def test_the_thirty_subjects_have_the_published_classes_and_dogs_and_cats_live() -> None:
    subjects = [with_option("subject", name).subject for name in NAMES]
    lines = "\n".join(f"{subject.name} {subject.class_word}" for subject in subjects)
    assert hashlib.sha256(lines.encode()).hexdigest() == CLASSES
    assert {option for option in OPTIONS["subject"] if not option.startswith("toy_")} == {"folder", *NAMES}
    assert [subject.live for subject in subjects] == [subject.class_word in ("dog", "cat") for subject in subjects]
    assert sum(subject.live for subject in subjects) == 9


def test_a_published_subject_lies_in_the_folder_of_its_name_or_where_it_is_said_to(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / "backpack_dog").mkdir(exist_ok=True)
        Image.new("RGB", (80, 60), (number, 0, 0)).save(tmp_path / "backpack_dog" / f"0{number}.png")
    made = []
    for key, value in (("paths.dreambooth", tmp_path), ("subject.path", tmp_path / "backpack_dog")):
        cfg = with_option("subject", "backpack_dog")
        OmegaConf.update(cfg, "base", composed().base)
        OmegaConf.update(cfg, key, str(value))
        made.append(build(cfg.subject.pictures, Subject))
    assert made[0].fingerprint == made[1].fingerprint
    assert (made[0].name, made[0].class_word, made[0].photos.shape) == ("backpack_dog", "backpack", (4, 3, 32, 32))
    assert made[0].prompts == prompts_for(live=False)


def test_photos_that_were_not_fetched_name_the_command_that_does(tmp_path: Path) -> None:
    cfg = with_option("subject", "dog")
    OmegaConf.update(cfg, "paths.dreambooth", str(tmp_path))
    ways = "run quantbooth-data dreambooth, or set paths.dreambooth=DIR or subject.path=DIR"
    with pytest.raises(UserError, match=rf"^found no photos at {tmp_path}/dog; {ways}"):
        build(cfg.subject.pictures, Subject)


@pytest.mark.parametrize("name", OPTIONS["base"])
def test_bases_of_1024_px_compute_activations_twice_unless_told_otherwise(name: str) -> None:
    cfg = with_option("base", name)
    assert cfg.resources.gradient_checkpointing == (cfg.base.resolution >= 1024)
    assert not composed(f"base={name}", "resources.gradient_checkpointing=false").resources.gradient_checkpointing


def test_a_base_that_says_nothing_of_checkpointing_has_none() -> None:
    """Such as one's own in --config-dir, and those of finished work of earlier versions."""
    cfg = composed("base=sdxl")
    with open_dict(cfg):
        del cfg.base.gradient_checkpointing
    assert cfg.resources.gradient_checkpointing is False


@pytest.mark.parametrize("name", OPTIONS["base"])
def test_borders_of_a_base_are_legal_zones_that_leave_no_timestep_out(name: str) -> None:
    base = with_option("base", name).base
    zones = zones_from_borders(OmegaConf.to_container(base.zones), base.timesteps)  # type: ignore[arg-type]
    assert [zone.name for zone in zones.zones] == ["clean_up", "content", "coarse"]
    assert (zones.index(torch.arange(base.timesteps)) > 0).all()


FLOWS = ("chroma", "flux1_dev", "klein_4b", "qwen_image", "sana", "sd35_large", "sd35_medium", "zimage")
SCHEDULES = {"pixart_sigma": LINEAR}


@pytest.mark.parametrize("name", [option for option in OPTIONS["base"] if option not in ("toy", "toy_flow", *FLOWS)])
def test_borders_of_a_base_lie_at_its_signal_to_noise_of_1_and_a_hundredth(name: str) -> None:
    schedule, zones = Schedule(SCHEDULES.get(name, SCHEDULE)), with_option("base", name).base.zones
    borders = [schedule.first_timestep_below(snr) for snr in (1.0, 0.01)]
    assert [list(zones[zone]) for zone in ("clean_up", "content", "coarse")] == [
        [0, borders[0]],
        borders,
        [borders[1], schedule.timesteps],
    ]


@pytest.mark.parametrize("method", [file.stem for file in sorted((conf_dir() / "method").glob("*.yaml"))])
def test_a_method_sets_bits_tuner_and_strategy_together(method: str) -> None:
    plan = Run(composed(f"method={method}"))
    assert plan.method == method
    assert (plan.calibration.bits is None) == (method in {"float", "lora"})


def test_keys_that_scripts_rely_on_are_there() -> None:
    cfg: Any = OmegaConf.to_container(composed("base=folder", "subject=folder"))
    for key in ("seed", "tuner.steps", "paths.store", "subject.path", "subject.class_word", "base.path"):
        group, _, name = key.rpartition(".")
        assert name in (cfg[group] if group else cfg), key
    assert composed("strategy=s1").strategy.interval == [200, 750]


@pytest.mark.parametrize(("model", "parts"), [("toy", {"judges", "base", "card"}), ("toy_flow", {"base", "card"})])
def test_pretraining_composes(model: str, parts: set[str]) -> None:
    settings = plain(composed(f"model={model}", name="pretrain"))
    assert set(settings["parts"]) == parts
    assert settings["assets"].endswith("pretrain/assets" if model == "toy" else "pretrain/assets/flow")
    assert all(isinstance(note, str) for note in settings["models"][model]["card"]["notes"])


@pytest.mark.parametrize("name", OPTIONS["base"])
def test_every_base_has_questions_to_be_measured_on(name: str) -> None:
    questions = build(with_option("base", name).base.held_out, Questions, count=3, seed=2)
    assert len(questions.each) == 3
    assert (questions.pictures is not None) == name.startswith("toy")


def test_damage_is_measured_with_every_option_of_the_other_commands() -> None:
    cfg = composed("quant=fp", name="degradation")
    assert {key: value for key, value in plain(cfg).items() if key != "degradation"} == plain(composed("quant=fp"))
    assert Degradation(Run(cfg)).artifact.identity == Degradation(Run(cfg)).reference.identity


@pytest.mark.parametrize(("group", "option"), [("dino", "dinov2_b"), ("locator", "owlv2")])
def test_networks_of_the_hub_are_pinned_and_told_when_they_cannot_be_had(group: str, option: str) -> None:
    cfg = composed(f"{group}={option}")
    assert len(cfg[group].folder.revision) == 40
    kind = ImageEncoder if group == "dino" else Locator
    with pytest.raises(
        UserError, match=rf"^cannot fetch .* from the hub: .*; {group}\.folder\.path=DIR takes a folder"
    ):
        build(cfg[group], kind)


@pytest.mark.parametrize(("group", "option"), [("dino", "dino_s16"), ("locator", "clipseg")])
def test_networks_without_safetensors_on_their_main_branch_need_a_commit(group: str, option: str) -> None:
    kind = ImageEncoder if group == "dino" else Locator
    with pytest.raises(UserError, match=rf"from the hub it needs {group}\.folder\.revision=COMMIT, 40 digits"):
        build(composed(f"{group}={option}")[group], kind)


def test_a_dino_of_a_folder_joins_any_scorer(tmp_path: Path) -> None:
    config = ViTConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=32)
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    scorer = build(composed("dino=dino_s16", f"dino.folder.path={tmp_path}").scorer, Scorer)
    assert scorer.dino is not None
    assert scorer.name.endswith(f" | {scorer.dino.name}")
    assert build(composed().scorer, Scorer).dino is None
    assert build(composed("scorer.mask_background=true").scorer, Scorer).background is False
