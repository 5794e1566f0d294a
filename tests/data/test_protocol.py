"""The protocol: evaluated steps, and refusals."""

from dataclasses import replace

import pytest

from quantbooth.data.protocol import Protocol
from quantbooth.runtime.errors import UserError

QUICK = Protocol("quick", seeds=[0], prompt_stride=1, eval_steps=[], batch=25)


def test_a_run_is_looked_at_before_it_at_the_steps_asked_and_at_its_end() -> None:
    assert QUICK.steps(last=200) == [0, 200]
    assert replace(QUICK, eval_steps=[100, 50, 200]).steps(last=200) == [0, 50, 100, 200]


def test_a_step_after_the_last_is_refused() -> None:
    with pytest.raises(UserError, match=r"eval_steps must be in \[1, tuner\.steps = 200\], got \[201\]"):
        replace(QUICK, eval_steps=[201]).steps(last=200)


def test_only_seeds_and_every_decide_the_pictures() -> None:
    assert replace(QUICK, name="other", batch=1, eval_steps=[3]).choice == QUICK.choice
    assert replace(QUICK, seeds=[1]).choice != QUICK.choice
    assert replace(QUICK, prompt_stride=2).choice != QUICK.choice


def test_scores_of_several_pictures_need_several() -> None:
    assert QUICK.of_several == []
    assert replace(QUICK, seeds=[0, 1]).of_several == ["diversity"]
    assert replace(QUICK, seeds=[0, 1], prior_prompts=5).of_several == ["diversity", "prior_kept"]
    assert str(QUICK) == "quick, 1 seeds a prompt"
    assert str(replace(QUICK, prior_prompts=5)) == "quick, 1 seeds a prompt, 5 prompts of other subjects"
