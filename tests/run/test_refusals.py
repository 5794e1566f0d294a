"""What a plan refuses: each option that cannot be, by its name and value, before anything is made."""

from collections.abc import Callable
from pathlib import Path

import pytest

from quantbooth.commands.pipeline import check
from quantbooth.run.run import Run
from quantbooth.runtime.errors import UserError

MakePlan = Callable[..., Run]


@pytest.mark.usefixtures("unchecked")
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
        check(plan(*overrides))
    assert not (folder / "out").exists()
