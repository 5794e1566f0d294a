"""Refusals of a run: options that do not fit together, before any work; tests/test_schema.py has the rest."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.errors import HydraException

from quantbooth.commands.pipeline import check
from quantbooth.run.run import Run
from quantbooth.runtime.config import conf_dir
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.explain import explain
from quantbooth.runtime.options import mistakes
from quantbooth.runtime.renamed import RENAMED

MakePlan = Callable[..., Run]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tuner.steps=30", "protocol.eval_steps=[31]"], r"eval_steps must be in \[1, tuner.steps = 30\], got \[31\]"),
        (
            ["prior=generated", "prior.num_class_images=0"],
            "^prior.num_class_images must be .* with prior.class_batch_size=2, got 0",
        ),
        (["strategy=s1", "strategy.interval=[900,1200]"], r"^strategy.interval must be .*, got \[900, 1200\]"),
        (["strategy=s2", "base.zones.content=[300,934]"], r"zones must be in ascending order and must not overlap"),
        (["method=float", "quant=w4"], "^tuner=full tunes float weights; choose quant=fp with it"),
        (["quant=fp"], "^tuner=scales tunes quantization scales; choose quant=w8, w4, w3 or w2, or tuner=full$"),
        (
            ["quant=fp", "tuner=qlora"],
            "^tuner=qlora adapts packed codes; choose quant=w8, w4, w3 or w2, or tuner=lora$",
        ),
        (
            ["tuner.group_size=4096"],
            "^tuner.group_size must divide the inputs of a quantized layer into two groups or more, got 4096; choose",
        ),
        (
            ["tuner.stopping.every=20", "tuner.stopping.variance=0"],
            "^tuner.stopping.every=20 needs tuner.stopping.variance, such as 0.05, or tuner.stopping.prompt_drop",
        ),
        (["tuner.stopping.window=3"], "^tuner.stopping.window=3 needs tuner.stopping.every, such as 20; leave it out"),
        (
            ["tuner.stopping.every=20", "tuner.stopping.prompts=8"],
            "^tuner.stopping.prompts=8 needs tuner.stopping.prompt_drop, such as 0.02; leave it out",
        ),
        (
            ["tuner.stopping.every=40"],
            r"^tuner.stopping.every=40 with tuner.stopping.window=5 looks too late .* tuner.steps=200; choose",
        ),
        (
            ["tuner.stopping.every=200", "tuner.stopping.prompt_drop=0.02"],
            "^tuner.stopping.every=200 looks too late .* tuner.steps=200; choose every < 200",
        ),
        (["prior.loss_weight=0"], "^prior.loss_weight=0 leaves prior.class_batch_size=2 class rows .*prior=none"),
        (
            ["tuner.stopping.every=20", "subjects=[toy_mug,toy_duck]"],
            "^tuner.stopping.every=20 ends the run of one subject, got several in subjects; sweep with -m subject=a,b",
        ),
        (
            ["tuner.stopping.every=20", "tuner.stopping.prompt_drop=0.02", "tuner.stopping.prompts=500"],
            "^tuner.stopping.prompts=500 needs as many prompts of base.held_out, found 20; take fewer",
        ),
        (
            ["tuner=qa_lora", "tuner.group_size=7"],
            r"^layer '.*to_q': tuner.group_size must divide its \d+ inputs, got 7; choose a smaller one, or leave",
        ),
        (["quant=fp", "tuner=qa_lora"], "^tuner=qlora adapts packed codes"),
        (["tuner=lora"], "^tuner=lora adapts float weights; choose quant=fp with it, or tuner=qlora$"),
        (["tuner.identifier=true", "strategy=s2", "strategy.apart=true"], "trains its 3 experts apart and each would"),
        (
            ["trainer.gradient_clip_algorithm=value"],
            "^trainer.gradient_clip_algorithm=value needs trainer.gradient_clip_val > 0, got null$",
        ),
        (["strategy=adaptive", "quant=fp"], "^strategy=adaptive compares .* got quant=fp; choose quant=w8"),
        (["strategy=adaptive", "method=lora", "quant.bits=null"], "^strategy=adaptive compares .* got quant=fp"),
        (["strategy=adaptive", "subjects=[toy_mug,toy_duck]"], r"^strategy=adaptive .* subjects=\[toy_mug,toy_duck\]"),
        (["strategy=adaptive", "strategy.count=21"], "^strategy.bins must be from strategy.count = 21 .* got 20"),
        (["method=float", "strategy=s2"], "one set of weights for all timesteps; strategy s2 needs more$"),
        (["method=float", "strategy=graded"], "one set of weights for all timesteps; strategy graded needs more$"),
        (
            ["strategy=s2_from_s1", "tuner.steps=30", "strategy.shared_steps=31"],
            r"^strategy.shared_steps must be at most tuner.steps = 30, got 31$",
        ),
        (["strategy=s2_from_s1", "strategy.shared_steps=-1"], "^strategy.shared_steps must be .*, got -1$"),
        (["strategy=s2_from_s1", "strategy.steps=7"], "^strategy.steps must be tuner.steps = 200, got 7$"),
        (
            ["strategy=s2_from_s1", "trainer.gradient_clip_val=1.0"],
            "^trainer.gradient_clip_val .* strategy.shared_steps=100; choose trainer.gradient_clip_algorithm=value",
        ),
        (["method=float", "strategy=s1s2"], "strategy s1s2 needs more$"),
        (["strategy=s1s2", "strategy.wide=[0,1001]"], r"^strategy.wide must be .*, got \[0, 1001\]$"),
        (["method=float", "strategy=s2_from_s1"], "strategy s2-from-s1 needs more$"),
        (["strategy=graded", "strategy.least=1.0"], r"^strategy.least must be in \[0, 1\), got 1.0"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_made(
    plan: MakePlan, folder: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check(plan(*overrides))
    assert not (folder / "out").exists()


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_option_of_before_is_answered_with_its_new_name(plan: MakePlan, old: str, new: str) -> None:
    assert mistakes(plan(f"{old}=3").settings) == {old: f"option '{old}' has another name: {new}"}


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("tuner.step=3", r"^unknown option 'tuner.step' \(did you mean 'tuner.steps'\?\)"),
        ("resources.gpu=3", "^unknown option 'resources.gpu'; --cfg job shows all options$"),
        ("prior.num_class_image=3", r"^unknown option .* \(did you mean 'prior.num_class_images'\?\)"),
    ],
)
def test_an_option_that_nothing_reads_is_refused(plan: MakePlan, override: str, told: str) -> None:
    (line,) = mistakes(plan(override).settings).values()
    assert re.match(told, line)


def test_new_names_of_options_are_there(plan: MakePlan) -> None:
    settings = plan().settings
    for new in RENAMED.values():
        key = new.partition(",")[0].partition("=")[0]
        if not key.startswith(("degradation.", "logger.")):  # a group of another command, and of one choice
            node: Any = settings
            for part in key.split("."):
                assert part in node, new
                node = node[part]


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("quantbooth", "base.zones={a: [0,5]}", "unknown option 'base.zones.a'"),
        ("data", "subject=dog", "unknown option 'subject'; --cfg"),
    ],
)
def test_the_unknown_one_is_named_and_not_offered_again(name: str, given: str, said: str) -> None:
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"), pytest.raises(HydraException) as caught:
        hydra.compose(name, [given])
    line = explain(caught.value, name)
    assert line.startswith(said)
    assert f"did you mean '{said.split(chr(39))[1]}'" not in line
