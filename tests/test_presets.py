"""Presets: each composes with every base to legal options, changes nothing unless it is asked for, and gives way."""

import itertools

import hydra
import pytest
from omegaconf import OmegaConf

from composing import composed
from quantbooth.run.options import recipe_of
from quantbooth.runtime.config import choices, conf_dir, plain
from quantbooth.runtime.hydra_versions import BASE
from quantbooth.runtime.options import require_valid
from quantbooth.runtime.presets import contradicted

PRESETS = choices(conf_dir() / "preset")
BASES = choices(conf_dir() / "base")


def test_the_presets_are_those_of_the_page() -> None:
    assert sorted(PRESETS) == ["12gb", "16gb", "24gb", "8gb", "cpu"]


EACH_ONCE = {*zip(itertools.cycle(PRESETS), BASES, strict=False)}
"""Every base and every preset; all pairs take half a minute."""


@pytest.mark.parametrize(
    ("preset", "base"),
    [
        pytest.param(*pair, marks=[] if pair in EACH_ONCE else pytest.mark.slow)
        for pair in itertools.product(PRESETS, BASES)
    ],
)
@pytest.mark.chain
def test_a_preset_is_legal_on_every_base(preset: str, base: str) -> None:
    cfg = composed(f"preset={preset}", f"base={base}")
    require_valid(cfg, "quantbooth")
    assert cfg.trainer.accelerator == ("cpu" if preset == "cpu" else "gpu")
    assert cfg.resources.gradient_checkpointing


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_changes_resources_and_no_method(preset: str) -> None:
    without, chosen = plain(composed()), plain(composed(f"preset={preset}"))
    changed = {key for key in chosen if chosen[key] != without[key]}
    assert changed <= {"trainer", "resources", "protocol", "tuner"}
    rows = [
        each["tuner"]["train_batch_size"] * each["trainer"].get("accumulate_grad_batches", 1)
        for each in (without, chosen)
    ]
    assert rows[0] == rows[1]
    assert {key for key in chosen["tuner"] if chosen["tuner"][key] != without["tuner"][key]} <= {"train_batch_size"}
    assert {key for key in chosen["protocol"] if chosen["protocol"][key] != without["protocol"][key]} <= {"batch"}


def test_an_option_that_is_typed_wins() -> None:
    cfg = composed("preset=8gb", "trainer=cpu", "resources.gradient_checkpointing=false", "protocol.batch=7")
    assert (cfg.trainer.accelerator, cfg.resources.gradient_checkpointing, cfg.protocol.batch) == ("cpu", False, 7)
    assert composed("preset=8gb", "method=float").quant.bits is None


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["preset=8gb", "protocol.batch=4"], ["protocol.batch=1", "protocol.batch=4"]),
        (["preset=8gb", "trainer=cpu"], ["trainer=gpu", "trainer=cpu"]),
        (["preset=cpu", "+trainer.accumulate_grad_batches=1"], ["trainer.accumulate_grad_batches=2"]),
        (["-m", "preset=8gb,24gb", "protocol.batch=1"], ["preset=24gb", "protocol.batch=auto"]),
        (["experiment=klein_12gb", "protocol.batch=7"], ["preset=12gb has protocol.batch=2", "protocol.batch=7"]),
        (["experiment=klein_12gb", "preset=8gb", "protocol.batch=2"], ["preset=8gb has protocol.batch=1"]),
    ],
)
def test_a_typed_option_that_contradicts_a_preset_is_named(words: list[str], named: list[str]) -> None:
    (line,) = contradicted(words, conf_dir())
    assert all(word in line for word in named)


@pytest.mark.parametrize("tuner", ["lora", "qlora"])
def test_a_value_of_an_experiment_that_a_typed_choice_does_not_change_is_named(tuner: str) -> None:
    words = ["experiment=klein_12gb", f"tuner={tuner}"]
    rate, chosen = (composed(*given).tuner.learning_rate for given in (words, words[1:]))
    (line,) = contradicted(words, conf_dir())
    assert f"experiment=klein_12gb has tuner.learning_rate={rate}" in line and f"tuner={tuner} has {chosen}" in line
    assert not [*contradicted([*words, f"tuner.learning_rate={chosen}"], conf_dir())]
    assert composed(*words, f"tuner.learning_rate={chosen}").tuner.learning_rate == chosen != rate


def test_options_that_agree_with_a_preset_are_not_named() -> None:
    assert not [*contradicted(["preset=8gb", "protocol.batch=1", "resources.cuda_graphs=False"], conf_dir())]
    assert not [
        *contradicted(["preset=8gb", "resources.memory_gb=8", "+trainer.accumulate_grad_batches=2"], conf_dir())
    ]
    for words in (["protocol.batch=4", "preset=null"], ["experiment=demo", "protocol.batch=4"]):
        assert not [*contradicted(words, conf_dir())]
    assert not [*contradicted(["experiment=sdxl_8gb", "protocol.batch=1", "tuner.train_batch_size=1"], conf_dir())]
    assert not [*contradicted(["experiment=klein_12gb", "preset=null", "protocol.batch=7"], conf_dir())]


@pytest.mark.parametrize("recipe", ["klein_12gb", "sd35m_8gb", "sdxl_8gb"])
@pytest.mark.parametrize("prior", choices(conf_dir() / "prior"))
def test_a_recipe_gives_way_to_a_prior_that_is_typed(recipe: str, prior: str) -> None:
    real = ("base.path=DIR", "subject.path=PHOTOS", "subject.class_word=dog")
    chosen = composed(f"experiment={recipe}", f"prior={prior}", *real)
    assert chosen.prior == composed(f"prior={prior}", f"base={chosen.base.name}", *real[:1]).prior
    recipe_of(plain(chosen))  # refuses options that contradict each other


def test_no_preset_is_the_configuration_of_before() -> None:
    with hydra.initialize_config_dir(str(conf_dir()), **BASE):
        made = hydra.compose("quantbooth", ["~preset"])
    assert OmegaConf.to_container(made) == OmegaConf.to_container(composed())
