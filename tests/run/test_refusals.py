"""Refusals of a run: each invalid option by name and value, before any work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantbooth.commands.pipeline import check
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError
from quantbooth.schema import RENAMED

MakePlan = Callable[..., Run]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["quant.bits=5"], "^bits must be one of 2, 3, 4, 8, got 5$"),
        (["quant.bits=four"], "^bits must be one of 2, 3, 4, 8, got 'four'$"),
        (["tuner.steps=30", "protocol.eval_steps=[31]"], r"eval_steps must be in \[1, tuner.steps = 30\], got \[31\]"),
        (["protocol.batch=0"], "^protocol.batch must be a whole number >= 1, got 0$"),
        (["prior.num_class_images=0"], "^prior.num_class_images must be a whole number >= 1, got 0$"),
        (["resources.save_dtype=bfloat16"], "^resources.save_dtype must be one of float32, float16, got 'bfloat16'$"),
        (["preview.validation_steps=-1"], "^preview.validation_steps must be a whole number >= 0, got -1$"),
        (["resources.checkpoint_every=-1"], "^resources.checkpoint_every must be a number >= 0, got -1$"),
        (["resources.gradient_checkpointing=3"], "^resources.gradient_checkpointing must be true or false, got 3$"),
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
        (["tuner.ema_decay=1"], "^tuner.ema_decay must be a number >= 0 and < 1, got 1$"),
        (["tuner.shift_learning_rate=-1"], "^tuner.shift_learning_rate must be a number >= 0, got -1$"),
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
    with pytest.raises(UserError) as caught:
        plan(f"{old}=3")
    assert str(caught.value) == f"option '{old}' has another name: {new}"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("tuner.step=3", r"^unknown option 'tuner.step' \(did you mean 'tuner.steps'\?\)"),
        ("resources.gpu=3", "^unknown option 'resources.gpu'; --cfg job shows all options$"),
        ("prior.num_class_image=3", r"^unknown option .* \(did you mean 'prior.num_class_images'\?\)"),
    ],
)
def test_an_option_that_nothing_reads_is_refused(plan: MakePlan, override: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        plan(override)


def test_new_names_of_options_are_there(plan: MakePlan) -> None:
    settings = plan().settings
    for new in RENAMED.values():
        key = new.partition(",")[0].partition("=")[0]
        if not key.startswith("degradation."):  # a group of another command
            node: Any = settings
            for part in key.split("."):
                assert part in node, new
                node = node[part]
