"""Refusals of a run: options that do not fit together, before any work; tests/test_schema.py has the rest."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantbooth.commands.pipeline import check
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.options import mistakes
from quantbooth.runtime.renamed import RENAMED

MakePlan = Callable[..., Run]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tuner.steps=30", "protocol.eval_steps=[31]"], r"eval_steps must be in \[1, tuner.steps = 30\], got \[31\]"),
        (
            ["prior.num_class_images=0"],
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
        if not key.startswith("degradation."):  # a group of another command
            node: Any = settings
            for part in key.split("."):
                assert part in node, new
                node = node[part]
