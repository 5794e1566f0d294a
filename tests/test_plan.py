"""The plan: an artifact's name changes with all that decides its content, and with nothing else."""

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path

import hydra
import pytest
import yaml
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from quantbooth.artifacts.fingerprint import fingerprint
from quantbooth.config import conf_dir
from quantbooth.errors import UserError
from quantbooth.metrics.locators import WholeImage
from quantbooth.plan import Plan
from quantbooth.quant.scale_sets import Parts
from quantbooth.stages.evaluation import Scorer
from quantbooth.stages.tuners import IdentifierTuner, ScaleTuner

MakePlan = Callable[..., Plan]
ROLES = ("quantized_base", "prior", "tuned", "before", "after", "scores")


class Nameless:
    """Stands for an encoder of which only the name is asked."""

    name = "an encoder"


@cache
def composed(groups: tuple[str, ...]) -> DictConfig:
    """The configuration for some group choices; composing is slow."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("quantbooth", list(groups))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that is only a file, and a place for a store."""
    place = tmp_path_factory.mktemp("plan")
    (place / "base").mkdir()
    (place / "base" / "weights").write_text("1")
    return place


@pytest.fixture(scope="module")
def plan(folder: Path) -> MakePlan:
    """Makes the plan of some overrides, with a scorer that is only a name."""

    def make(*overrides: str) -> Plan:
        groups = tuple(word for word in overrides if (conf_dir() / word.partition("=")[0]).is_dir())
        cfg = deepcopy(composed(("base=folder", *groups)))
        given = [word for word in overrides if word not in groups]
        for word in [f"base.path={folder}/base", f"paths.outputs={folder}/out", "base.resolution=32", *given]:
            key, _, value = word.partition("=")
            OmegaConf.update(cfg, key, yaml.safe_load(value))
        made = Plan(cfg)
        made.scorer = Scorer(Nameless(), WholeImage())  # type: ignore[arg-type]
        return made

    return make


@pytest.fixture(scope="module")
def default(plan: MakePlan) -> dict[str, str]:
    """The names of the default setting."""
    return names(plan())


def names(plan: Plan) -> dict[str, str]:
    """Label and fingerprint of each artifact."""
    last = plan.steps[-1]
    items = (plan.quantized_base, plan.prior, plan.tuned, plan.images(0), plan.images(last), plan.scores(last))
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
        ("strategy.timesteps=999", "tuned after scores"),
        ("tuner.steps=100", "tuned after scores"),
        ("tuner.learning_rate=0.02", "tuned after scores"),
        ("tuner.subject_batch=4", "tuned after scores"),
        ("tuner=scales_in_out", "tuned after scores"),
        ("tuner=qlora", "tuned after scores"),
        ("tuner.biases=true", "tuned after scores"),
        ("tuner.norms=true", "tuned after scores"),
        ("tuner.identifier=true", "tuned after scores"),
        ("tuner.average=0.9", "tuned after scores"),
        ("tuner.shift_learning_rate=0.1", "tuned after scores"),
        ("tuner.identifier_learning_rate=0.1", "tuned after scores"),
        ("tuner.decay=false", "tuned after scores"),
        ("tuner.saved_as=float16", "tuned after scores"),
        ("tuner.weight_bound=5.0", "tuned after scores"),
        ("optimizer.weight_decay=0.1", "tuned after scores"),
        ("prior.weight=0.5", "tuned after scores"),
        ("prior.batch=1", "tuned after scores"),
        ("prior.count=8", "prior tuned after scores"),
        ("prior.seed=1", "prior tuned after scores"),
        ("subject=toy_mug2", "tuned before after scores"),
        ("subject=toy_duck", "prior tuned before after scores"),
        ("base.identifier=zwx", "tuned before after scores"),
        ("protocol.at_steps=[100]", "tuned"),
        ("protocol.seeds=[1]", "before after scores"),
        ("protocol.every=2", "before after scores"),
        ("protocol.name=mine", "scores"),
        ("protocol.drift=3", "before after scores"),
        ("protocol.drift=0", ""),
        ("sampler.steps=10", "prior tuned before after scores"),
        ("sampler=euler", "prior tuned before after scores"),
        ("sampler.guidance=1.5", "prior tuned before after scores"),
        ("quant=w3", " ".join(ROLES)),
        ("quant.bits=8", " ".join(ROLES)),
        ("quant.exclude=[conv_in]", " ".join(ROLES)),
        ("calibration=minmax", " ".join(ROLES)),
        ("calibration.search.norm=2.0", " ".join(ROLES)),
        ("trainer=gpu", ""),
        ("trainer.devices=2", ""),
        ("logger=wandb", ""),
        ("logger.folder=elsewhere", ""),
        ("paths.logs=elsewhere", ""),
        ("paths.store=elsewhere", ""),
        ("tuner.sample_every=7", ""),
        ("tuner.checkpointing=true", ""),
        ("protocol.batch=1", ""),
        ("report.folder=elsewhere", ""),
        ("report.notes=[hello]", ""),
        ("lora=[]", ""),
    ],
)
def test_what_a_setting_changes(plan: MakePlan, default: dict[str, str], override: str, changed: str) -> None:
    assert differing(default, names(plan(override))) == set(changed.split())


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
    other.scorer.encoder.name = "another encoder"  # type: ignore[misc]
    assert differing(default, names(other)) == {"scores"}


def test_other_weights_of_the_base_are_another_base(plan: MakePlan, default: dict[str, str], tmp_path: Path) -> None:
    """Their place does not count, their content does."""
    for content, changed in (("1", set()), ("2", set(ROLES))):
        (tmp_path / "base").mkdir(exist_ok=True)
        (tmp_path / "base" / "weights").write_text(content)
        assert differing(default, names(plan(f"base.path={tmp_path}/base"))) == changed


@pytest.mark.parametrize("override", ["strategy=s2", "seed=3", "tuner.steps=7", "prior=none", "tuner.decay=false"])
def test_pictures_and_scores_of_the_untuned_base_are_shared(plan: MakePlan, override: str) -> None:
    one, other = plan(), plan(override)
    for made in ("images", "scores"):
        first, second = getattr(one, made)(0), getattr(other, made)(0)
        assert (first.label, first.identity) == (second.label, second.identity)


def test_float_and_quantized_start_from_different_pictures(plan: MakePlan) -> None:
    quantized, full = plan(), plan("method=float")
    assert full.quantized_base is None
    assert (quantized.method, full.method) == ("baseline", "float")
    assert names(quantized)["before"] != names(full)["before"]
    assert (quantized.tuned.kind, full.tuned.kind) == ("scale_sets", "tuned_weights")


def test_another_tuner_says_its_name_in_tables(plan: MakePlan) -> None:
    named = {
        "scales_in_out": "baseline-scales_in_out",
        "scales": "baseline",
        "in, out + norms": "baseline-in-out-norms",
    }
    for name, method in named.items():
        assert plan(f"tuner.name={name}").method == method
    assert plan("tuner=scales_in_out", "strategy=s1").method == "s1-scales_in_out"
    assert plan("method=float", "tuner.name=full_word").method == "float-full_word"
    adapters = (["tuner=lora", "quant=fp"], ["tuner=qlora"])
    others: tuple[list[str], ...] = ([], ["strategy=s2"], ["tuner.tag=0.1"], ["strategy=s1", "tuner.tag=0.1"])
    assert [plan(*words, *other).method for words in adapters for other in others] == [
        *("lora", "s2-lora", "lora-0.1", "s1-lora-0.1"),
        *("qlora", "s2-qlora", "qlora-0.1", "s1-qlora-0.1"),
    ]


@pytest.mark.parametrize("tuner", ["tuner=scales", "tuner=scales_in_out", "tuner=full"])
def test_options_of_a_tuner_reach_it(plan: MakePlan, tuner: str) -> None:
    words = [tuner, "quant=fp"] if tuner == "tuner=full" else [tuner, "tuner.biases=true", "tuner.norms=true"]
    made = plan(*words, "tuner.average=0.9", "tuner.identifier=true", "tuner.identifier_learning_rate=0.5")
    assert made.recipe.average == 0.9
    assert made.recipe.rates["identifier"] == 0.5
    assert isinstance(made.tuner, IdentifierTuner)
    assert made.tuner.sentence == "a photo of a sks mug"
    if isinstance(made.tuner.inner, ScaleTuner):
        assert made.tuner.inner.parts == Parts(inputs=tuner == "tuner=scales_in_out", biases=True, norms=True)


def test_a_name_that_says_the_bits_says_the_right_ones(plan: MakePlan) -> None:
    overridden = plan("quant.bits=8")
    assert overridden.quant_name == "w8"
    assert "-w8-" in overridden.tuned.label


def test_the_run_is_looked_at_before_it_and_at_its_end_at_least(plan: MakePlan) -> None:
    assert plan("tuner.steps=30").steps == [0, 30]
    assert plan("tuner.steps=30", "protocol.at_steps=[20,10]").steps == [0, 10, 20, 30]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["quant.bits=5"], "^bits must be one of 2, 3, 4, 8, got 5$"),
        (["quant.bits=four"], "^bits must be one of 2, 3, 4, 8, got 'four'$"),
        (["tuner.steps=30", "protocol.at_steps=[31]"], r"at_steps must be in \[1, tuner.steps = 30\], got \[31\]"),
        (["protocol.batch=0"], "^protocol.batch must be a whole number >= 1, got 0$"),
        (["prior.count=0"], "^prior.count must be a whole number >= 1, got 0$"),
        (["tuner.saved_as=bfloat16"], "^tuner.saved_as must be one of float32, float16, got 'bfloat16'$"),
        (["tuner.sample_every=-1"], "^tuner.sample_every must be a whole number >= 0, got -1$"),
        (["tuner.checkpointing=3"], "^tuner.checkpointing must be true or false, got 3$"),
        (["paths.store=null"], "^paths.store must be a path, got None$"),
        (["quant.include=5"], r"^quant.include must be a list of texts such as \[conv_in,mid_block.\*\], got 5$"),
        (["quant.exclude=[conv_in,3]"], "^quant.exclude must be a list of texts such as"),
        (["sampler.steps=0"], "^sampler.steps must be >= 1"),
        (["strategy=s1", "strategy.interval=[900,1200]"], r"0 <= start < stop <= 1000, got selected \[900, 1200\)"),
        (["strategy=s2", "base.zones.content=[300,934]"], r"zones must be in ascending order and must not overlap"),
        (["method=float", "quant=w4"], "^tuner=full tunes float weights; choose quant=fp with it"),
        (["quant=fp"], "^tuner=scales tunes quantization scales; choose quant=w8, w4, w3 or w2, or tuner=full$"),
        (
            ["quant=fp", "tuner=qlora"],
            "^tuner=qlora adapts packed codes; choose quant=w8, w4, w3 or w2, or tuner=lora$",
        ),
        (["tuner=lora"], "^tuner=lora adapts float weights; choose quant=fp with it, or tuner=qlora$"),
        (["tuner=qlora", "tuner.rank=0"], "^tuner.rank must be a whole number >= 1, got 0, from tuner.learner$"),
        (["tuner=qlora", "tuner.alpha=0"], "^tuner.alpha must be a number > 0, got 0, from tuner.learner$"),
        (["tuner=qlora", "tuner.include=5"], r"^tuner.include must be a list of texts such as"),
        (["tuner.norms=3"], "^norms must be true or false, got 3, from tuner.learner$"),
        (["tuner.identifier=3"], "^tuner.identifier must be true or false, got 3$"),
        (["tuner.identifier=true", "strategy=s2", "strategy.apart=true"], "trains its 3 experts apart and each would"),
        (["tuner.average=1"], "^tuner.average must be a number >= 0 and < 1, got 1$"),
        (["tuner.shift_learning_rate=-1"], "^tuner.shift_learning_rate must be a number >= 0, got -1$"),
        (["method=float", "strategy=s2"], "one set of weights for all timesteps; strategy s2 needs more$"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_made(
    plan: MakePlan, folder: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        plan(*overrides)
    assert not (folder / "out").exists()


def test_a_subject_of_another_size_than_the_base_is_refused(plan: MakePlan) -> None:
    with pytest.raises(UserError, match=r"^pictures of subject toy_mug must be base\.resolution = 512 wide, got 32$"):
        plan("base.resolution=512").tuned  # noqa: B018


def test_what_is_not_made_yet_names_the_command_that_makes_it(plan: MakePlan, folder: Path) -> None:
    made = plan()
    assert made.quantized_base is not None
    items = {"calibrate": made.quantized_base, "tune": made.tuned, "sample": made.images(0), "evaluate": made.scores(0)}
    for verb, item in items.items():
        assert item.find() is None
        with pytest.raises(UserError) as caught:
            item.require()
        store = f"{folder}/out/store"
        expected = f"no {item.kind} for these settings in {store}; make it with quantbooth-{verb} and the same options"
        assert str(caught.value) == expected


@pytest.mark.parametrize("name", ["Übung 1", "子犬", "_rex", "a" * 200, "con.", "..."])
def test_any_folder_name_makes_a_label_that_every_disk_takes(plan: MakePlan, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    Image.new("RGB", (32, 32)).save(folder / "1.png")
    made = plan("subject=folder", f"subject.path={folder}", "subject.class_word=stuffed animal")
    assert made.subject.name == name
    for item in (made.tuned, made.prior, made.images(0)):
        assert item.find() is None
