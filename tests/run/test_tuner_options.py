"""Options of tuners: each one that a tuner takes decides what is learned, any other is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from experiments.random_base import random_base
from quantbooth.diffusion.pretrained import save_base
from quantbooth.run.run import Run
from quantbooth.run.tuner_options import not_read
from quantbooth.runtime.config import conf_dir
from quantbooth.runtime.errors import UserError
from quantbooth.schema_tuner import LEARNER, UNUSED_RATES

pytestmark = pytest.mark.chain

MakePlan = Callable[..., Run]
FLOAT = ("full", "lora")
VALUES = {
    "biases": "true",
    "norms": "true",
    "rank": "3",
    "alpha": "2",
    "include": "['*.to_q']",
    "exclude": "['*.to_q']",
}
RATES = ("shift_learning_rate", "adapter_learning_rate")
TUNERS = sorted(file.stem for file in (conf_dir() / "tuner").glob("[!_]*.yaml"))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("tuner", TUNERS)
def test_every_option_of_any_tuner_decides_or_is_refused(plan: MakePlan, tuner: str) -> None:
    words = [f"tuner={tuner}", f"quant={'fp' if tuner in FLOAT else 'w4'}"]
    usual = plan(*words)
    usual.check("recipe", "tuner")
    read = set(usual.settings["tuner"]["learner"])
    for option in ("biases", "norms", "rank", "alpha", "include", "exclude", "group_size", *RATES):
        value = VALUES.get(option, "0.3" if option in RATES else "32")
        value = "false" if usual.settings["tuner"].get(option) is True else value
        learns = ["tuner.biases=true"] if option == RATES[0] and "biases" in read else []
        other, same = plan(*words, *learns, f"tuner.{option}={value}"), plan(*words, *learns)
        taken = option in read if option in LEARNER else option in usual.settings["tuner"]
        if taken:
            other.check("recipe")
            assert other.only.tuned.identity != same.only.tuned.identity, option
        else:
            with pytest.raises(UserError, match=rf"^tuner.{option}=.* is no option of tuner={tuner}; leave it out$"):
                other.check("recipe")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (["tuner.shift_learning_rate=0.1"], "^tuner.shift_learning_rate=0.1 needs tuner.biases=true or tuner.norms"),
        (["tuner.identifier_learning_rate=0.1"], "^tuner.identifier_learning_rate=0.1 needs tuner.identifier=true"),
        (["optimizer.lr=0.5"], "^optimizer.lr=0.5 contradicts tuner.learning_rate=0.02; set tuner.learning_rate"),
        (["tuner=qa_lora", "tuner.group_size=null"], "^tuner.group_size=null leaves tuner=qa_lora .*tuner=qlora$"),
    ],
)
def test_what_would_change_the_name_alone_is_refused(plan: MakePlan, words: list[str], refused: str) -> None:
    with pytest.raises(UserError, match=refused):
        plan(*words).check("recipe")


@pytest.mark.usefixtures("unchecked")
def test_learning_rates_of_what_learns_decide(plan: MakePlan) -> None:
    for learns, rate in (("biases", "shift"), ("norms", "shift"), ("identifier", "identifier")):
        words = [f"tuner.{learns}=true"]
        other = plan(*words, f"tuner.{rate}_learning_rate=0.1")
        other.check("recipe")
        assert other.only.tuned.identity != plan(*words).only.tuned.identity


def test_unused_rates_are_those_of_the_shipped_tuners() -> None:
    found: dict[str, set[float]] = {rate: set() for rate in UNUSED_RATES}
    for file in (conf_dir() / "tuner").glob("*.yaml"):
        values = yaml.safe_load(file.read_text())
        for rate in UNUSED_RATES:
            found[rate] |= {values[rate]} if rate in values else set()
    assert found == {rate: set(values) for rate, values in UNUSED_RATES.items()}


GUARD = ("tuner.stopping.every=2", "tuner.stopping.prompt_drop=0.1")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("words", "read"),
    [
        ((), ["sampler"]),
        (("prior=none",), []),
        (("prior=distilled",), []),
        (("prior=none", "calibration=qdiffusion"), ["sampler"]),
        (("prior=none", *GUARD), ["sampler", "scorer"]),
        (("scale_sets=NAME",), []),
    ],
)
def test_what_tuning_reads_of_drawing_and_scoring_is_not_called_unused(
    plan: MakePlan, words: tuple[str, ...], read: list[str]
) -> None:
    one, other = plan(*words), plan(*words, "sampler.steps=30")
    unused = not_read(("sampler", "scorer", "locator"), one.settings)
    assert unused == tuple(group for group in ("sampler", "scorer", "locator") if group not in read)
    if words != ("scale_sets=NAME",):
        found = [(run.only.tuned.identity, run.quantized_base and run.quantized_base.identity) for run in (one, other)]
        assert (found[0] != found[1]) == ("sampler" in read)


FLOW = ("base=toy_flow", "sampler=flow_euler", "prior=none")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("words", "unused"),
    [
        (FLOW, ("sampler.steps", "sampler.guidance")),
        ((*FLOW, "sampler.guidance=1"), ("sampler.steps",)),  # as FLUX.1 must have it
        ((*FLOW, "timesteps=shifted"), ("sampler.guidance",)),
        ((*FLOW, "timesteps=shifted", "timesteps.shift=3"), ("sampler.steps", "sampler.guidance")),
        ((*FLOW[:2], "timesteps=shifted"), ()),
        ((*FLOW, "scale_sets=NAME"), ("sampler",)),
    ],
)
def test_what_a_flow_base_must_have_is_not_called_unused(
    plan: MakePlan, words: tuple[str, ...], unused: tuple[str, ...]
) -> None:
    one = plan(*words)
    assert not_read(("sampler", "dino"), one.settings) == (*unused, "dino")
    if "sampler.steps" in unused:
        assert plan(*words, "sampler.steps=30").only.tuned.identity == one.only.tuned.identity


def test_steps_that_decide_the_shift_of_training_are_not_called_unused(plan: MakePlan, tmp_path: Path) -> None:
    save_base(random_base("tiny-klein"), tmp_path / "base", torch.float16)
    words = ("base=klein_4b", f"base.path={tmp_path}/base", "base.resolution=64", *FLOW[1:], "timesteps=shifted")
    one, more = plan(*words), plan(*words, "sampler.steps=30")
    assert one.timestep_sampler.describe() != more.timestep_sampler.describe()
    assert not_read(("sampler",), one.settings) == ("sampler.guidance",)
