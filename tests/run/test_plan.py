"""Artifact names: they change with everything that decides the content, and with nothing else."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from quantbooth.diffusion.sampler import Sampler
from quantbooth.evaluation.scorer import Scorer
from quantbooth.quant.observers import MSEObserver
from quantbooth.quant.scale_sets import Parts
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.store.files import fingerprint
from quantbooth.store.manifest import TITLES
from quantbooth.tuning.tuners import IdentifierTuner, ScaleTuner
from quantbooth_toyworld.judges import load_locator
from quantbooth_toyworld.shipped import judges_folder

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="the trainer is made first, which needs one")
MakePlan = Callable[..., Run]
ROLES = ("quantized_base", "prior", "tuned", "before", "after", "scores")


@pytest.fixture(scope="module")
def default(plan: MakePlan) -> dict[str, str]:
    """The names of the default setting."""
    return names(plan())


def names(plan: Run) -> dict[str, str]:
    """Label and fingerprint of each artifact."""
    one, last = plan.only, plan.steps[-1]
    items = (plan.quantized_base, one.prior, one.tuned, one.images(0), one.images(last), one.scores(last))
    return {
        role: f"{item.label} {fingerprint(item.identity)}" if item else "none"
        for role, item in zip(ROLES, items, strict=True)
    }


def differing(one: dict[str, str], other: dict[str, str]) -> set[str]:
    return {role for role in ROLES if one[role] != other[role]}


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("seed=1", "tuned after scores"),
        ("strategy=s1", "tuned after scores"),
        ("timesteps=logit_normal", "tuned after scores"),
        ("timesteps=log_snr", "tuned after scores"),
        ("timesteps=uniform", ""),
        ("tuner.steps=100", "tuned after scores"),
        ("tuner.learning_rate=0.03", "tuned after scores"),
        ("tuner.train_batch_size=4", "tuned after scores"),
        ("tuner=scales", "tuned after scores"),
        ("tuner=qlora", "tuned after scores"),
        ("tuner.biases=true", "tuned after scores"),
        ("tuner.norms=true", "tuned after scores"),
        ("tuner.identifier=true", "tuned after scores"),
        ("tuner.ema_decay=0.9", "tuned after scores"),
        ("tuner.lr_scheduler=constant", "tuned after scores"),
        ("tuner.lr_warmup_steps=5", "tuned after scores"),
        ("tuner.lr_warmup_steps=0", ""),
        ("resources.save_dtype=float16", "tuned after scores"),
        ("tuner.loss_weight_max=5.0", "tuned after scores"),
        ("optimizer.weight_decay=0.1", "tuned after scores"),
        ("prior.loss_weight=0.5", "tuned after scores"),
        ("prior.class_batch_size=1", "tuned after scores"),
        ("prior.num_class_images=8", "prior tuned after scores"),
        ("prior.seed=1", "prior tuned after scores"),
        ("subject=toy_mug2", "tuned before after scores"),
        ("subject=toy_duck", "prior tuned before after scores"),
        ("base.identifier=zwx", "tuned before after scores"),
        ("protocol.eval_steps=[100]", "tuned"),
        ("protocol.seeds=[1]", "before after scores"),
        ("protocol.prompt_stride=2", "before after scores"),
        ("protocol.name=mine", "scores"),
        ("protocol.prior_prompts=3", "before after scores"),
        ("protocol.prior_prompts=0", ""),
        ("sampler.steps=10", "prior tuned before after scores"),
        ("sampler=euler", "prior tuned before after scores"),
        ("sampler.guidance=1.5", "prior tuned before after scores"),
        ("quant=w3", " ".join(ROLES)),
        ("quant.bits=8", " ".join(ROLES)),
        ("quant.exclude=[conv_in]", " ".join(ROLES)),
        ("calibration=minmax", " ".join(ROLES)),
        ("calibration.search.lp_norm=2.0", " ".join(ROLES)),
        ("trainer.precision=bf16-mixed", " ".join(ROLES)),
        ("trainer.gradient_clip_val=1.0", "tuned after scores"),
        ("trainer.gradient_clip_val=1.0 trainer.gradient_clip_algorithm=value", "tuned after scores"),
        ("trainer.accumulate_grad_batches=2", "tuned after scores"),
        ("trainer.accumulate_grad_batches=1", ""),
        ("trainer.deterministic=true", " ".join(ROLES)),
        ("optimizer.eps=0.001", "tuned after scores"),
        ("optimizer.name=sgd", "tuned after scores"),
        ("tag=mine", "tuned after scores"),
        pytest.param("trainer=gpu", "", marks=GPU),
        ("trainer.log_every_n_steps=1", ""),
        ("trainer.devices=2", ""),
        ("logger=wandb", ""),
        ("logger.csv.folder=elsewhere", ""),
        ("logger=[csv,tensorboard]", ""),
        ("paths.logs=elsewhere", ""),
        ("paths.store=elsewhere", ""),
        ("preview.validation_steps=7", ""),
        ("resources.gradient_checkpointing=true", ""),
        ("resources.checkpoint_every=5", ""),
        ("protocol.batch=1", ""),
        ("report.folder=elsewhere", ""),
        ("report.notes=[hello]", ""),
        ("lora=[]", ""),
    ],
)
@pytest.mark.chain
def test_what_a_setting_changes(plan: MakePlan, default: dict[str, str], override: str, changed: str) -> None:
    assert differing(default, names(plan(*override.split()))) == set(changed.split())


def test_no_identity_holds_an_address_of_code_or_a_place(plan: MakePlan, folder: Path) -> None:
    made = plan("calibration=qdiffusion", "quant=w4a8", "tuner=qlora", "strategy=s2", "protocol.prior_prompts=2")
    one = made.only
    for item in (made.quantized_base, one.prior, one.tuned, one.images(0), one.images(200), one.scores(200)):
        assert item is not None
        text = json.dumps(item.identity)
        assert not [word for word in ("_target_", "_partial_", "quantbooth.", "torch.", str(folder)) if word in text]


def test_moved_code_is_found_under_the_same_name(
    plan: MakePlan, default: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantbooth.runtime.config._is_trusted", lambda _: True)
    for place, moved in (("calibration.search", MSEObserver), ("tuner.learner", ScaleTuner), ("sampler", Sampler)):
        monkeypatch.setattr(sys.modules[__name__], "Moved", moved, raising=False)
        monkeypatch.setitem(sys.modules, "elsewhere", sys.modules[__name__])
        assert differing(default, names(plan(f"{place}._target_=elsewhere.Moved"))) == set()


@pytest.mark.parametrize("option", ["gradient_clip_val=1.0", "accumulate_grad_batches=2"])
def test_gradients_are_clipped_and_accumulated_in_tuning_alone(plan: MakePlan, option: str) -> None:
    learned = ["calibration=qdiffusion"]
    made = [names(plan(*learned, *more)) for more in ([], [f"trainer.{option}"])]
    assert differing(*made) == {"tuned", "after", "scores"}
    run = plan(f"trainer.{option}")
    assert (run.trainer("").gradient_clip_val, run.trainer("").accumulate_grad_batches) == (None, 1)
    tuning = run.trainer("", tuning=True)
    assert (tuning.gradient_clip_val, tuning.accumulate_grad_batches) in ((1.0, 1), (None, 2))


def test_an_interval_is_part_of_the_name(plan: MakePlan) -> None:
    options = ("strategy.interval=[354,934]", "strategy.interval=[354,900]", "strategy.outside=tuned")
    words: tuple[list[str], ...] = ([], *([option] for option in options))
    usual, same, *others = (names(plan("strategy=s1", *word))["tuned"] for word in words)
    assert usual == same
    assert len({usual, *others}) == 3


def test_without_prior_preservation_the_sampler_does_not_decide_what_is_learned(plan: MakePlan) -> None:
    one, other = names(plan("prior=none")), names(plan("prior=none", "sampler.steps=10"))
    assert differing(one, other) == {"prior", "before", "after", "scores"}


def test_another_scorer_scores_anew_and_draws_nothing_anew(plan: MakePlan, default: dict[str, str]) -> None:
    other = plan()
    other.scorer = Scorer(other.scorer.encoder, load_locator(judges_folder()))
    assert differing(default, names(other)) == {"scores"}


def test_other_weights_of_the_base_are_another_base(
    plan: MakePlan, default: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    """Their place does not count, their content does."""
    for content, changed in (("1", set()), ("2", set(ROLES))):
        (tmp_path / "base").mkdir(exist_ok=True)
        shutil.copytree(folder / "base", tmp_path / "base", dirs_exist_ok=True)
        (tmp_path / "base" / "weights").write_text(content)
        assert differing(default, names(plan(f"base.path={tmp_path}/base"))) == changed


@pytest.mark.parametrize(
    "override", ["strategy=s2", "seed=3", "tuner.steps=7", "prior=none", "tuner.lr_scheduler=constant"]
)
def test_pictures_and_scores_of_the_untuned_base_are_shared(plan: MakePlan, override: str) -> None:
    one, other = plan(), plan(override)
    for made in ("images", "scores"):
        first, second = getattr(one.only, made)(0), getattr(other.only, made)(0)
        assert (first.label, first.identity) == (second.label, second.identity)


def test_float_and_quantized_start_from_different_pictures(plan: MakePlan) -> None:
    quantized, full = plan(), plan("method=float")
    assert full.quantized_base is None
    assert (quantized.method, full.method) == ("baseline-scales_in_out", "float")
    assert names(quantized)["before"] != names(full)["before"]
    assert (quantized.only.tuned.kind, full.only.tuned.kind) == ("scale_sets", "tuned_weights")


@pytest.mark.parametrize("tuner", ["tuner=scales", "tuner=scales_in_out", "tuner=full"])
def test_options_of_a_tuner_reach_it(plan: MakePlan, tuner: str) -> None:
    words = [tuner, "quant=fp"] if tuner == "tuner=full" else [tuner, "tuner.biases=true", "tuner.norms=true"]
    made = plan(*words, "tuner.ema_decay=0.9", "tuner.identifier=true", "tuner.identifier_learning_rate=0.5")
    assert made.recipe.ema_decay == 0.9
    assert made.recipe.rates["identifier"] == 0.5
    assert isinstance(made.tuner, IdentifierTuner)
    assert made.tuner.sentence == "a photo of a sks mug"
    if isinstance(made.tuner.inner, ScaleTuner):
        assert made.tuner.inner.parts == Parts(inputs=tuner == "tuner=scales_in_out", biases=True, norms=True)


def test_a_name_that_says_the_bits_says_the_right_ones(plan: MakePlan) -> None:
    overridden = plan("quant.bits=8")
    assert overridden.calibration.name == "w8"
    assert "-w8-" in overridden.only.tuned.label


def test_the_run_is_looked_at_before_it_and_at_its_end_at_least(plan: MakePlan) -> None:
    assert plan("tuner.steps=30").steps == [0, 30]
    assert plan("tuner.steps=30", "protocol.eval_steps=[20,10]").steps == [0, 10, 20, 30]


def test_a_subject_of_another_size_than_the_base_is_refused(plan: MakePlan, folder: Path, tmp_path: Path) -> None:
    file = Path(shutil.copytree(folder / "base", tmp_path / "base")) / "unet" / "config.json"
    file.write_text(file.read_text().replace('"sample_size": 8', '"sample_size": 16'))
    with pytest.raises(UserError, match=r"^pictures of subject toy_mug must be base\.resolution = 64 wide, got 32$"):
        plan(f"base.path={tmp_path}/base", "base.resolution=64").only  # noqa: B018


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("base.resolution=768", "base.resolution must be 32, .* got 768"),
        ("base.timesteps=500", "base.timesteps must be 1000, got 500"),
        ("base.revision=main", "base.revision=main .* leave it out"),
        ("base.config=somewhere", "base.config is for a .safetensors file"),
        ("base.path=. base.resolution=768", "model_index.json is missing"),
    ],
)
def test_options_that_the_base_contradicts_are_refused_first(
    plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, named: str
) -> None:
    """Also where a subject's pictures are of another side."""
    monkeypatch.chdir(tmp_path)
    for part in ("only", "sampler"):
        with pytest.raises(UserError, match=named):
            plan(*option.split()).check(part)


def test_what_is_not_made_yet_names_the_command_that_makes_it(plan: MakePlan, folder: Path) -> None:
    made = plan()
    assert made.quantized_base is not None
    items = {
        "calibrate": made.quantized_base,
        "tune": made.only.tuned,
        "sample": made.only.images(0),
        "evaluate": made.only.scores(0),
    }
    for verb, item in items.items():
        assert item.find() is None
        with pytest.raises(UserError) as caught:
            item.require()
        store = f"{folder}/out/store"
        expected = (
            f"{store} lacks {TITLES[item.kind]} of these settings; make it with quantbooth-{verb} and the same options"
        )
        assert str(caught.value) == expected


@pytest.mark.parametrize("name", ["Übung 1", "子犬", "_rex", "a" * 200, "con.", "..."])
def test_any_folder_name_makes_a_label_that_every_disk_takes(plan: MakePlan, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    Image.new("RGB", (32, 32)).save(folder / "1.png")
    made = plan("subject=folder", f"subject.path={folder}", "subject.class_word=stuffed animal")
    assert made.only.name == name
    for item in (made.only.tuned, made.only.prior, made.only.images(0)):
        assert item.find() is None
