"""A result refuses rows that cannot be scored or shown, and knows its own means."""

import dataclasses
from collections.abc import Callable

import pandas as pd
import pytest

from quantbooth.reporting.results import Result
from quantbooth.runtime.errors import UserError

Make = Callable[..., Result]


def _with_rows(result: Result, rows: pd.DataFrame) -> Result:
    return dataclasses.replace(result, rows=rows)


def test_rows_must_have_every_column_and_at_least_one_image(make: Make) -> None:
    result = make()
    with pytest.raises(UserError, match="scores-s1-toy_mug-0-400 lacks them"):
        _with_rows(result, result.rows.drop(columns="clip_i"))
    with pytest.raises(UserError, match="at least one scored image"):
        _with_rows(result, result.rows.iloc[:0])


def test_the_same_prompt_and_noise_twice_is_refused(make: Make) -> None:
    result = make()
    with pytest.raises(UserError, match=r"'a sks mug' with noise seed 0 again"):
        _with_rows(result, pd.concat([result.rows, result.rows.tail(1)]))


@pytest.mark.parametrize("value", [1.01, -1.01, 5.0, 1e300])
def test_a_score_out_of_its_range_is_refused(make: Make, value: float) -> None:
    make(clip_i=[1.0, -1.0, 1.0004, 0.0, 0.1])
    with pytest.raises(UserError, match=r"clip_i must be from -1 to 1, got .* for 2\.png"):
        make(clip_i=[0.1, 0.2, value, 0.1, 0.1])


def test_a_score_must_be_finite_but_an_oracle_may_have_nothing_to_say(make: Make) -> None:
    with pytest.raises(UserError, match=r"clip_t must be from -1 to 1, got nan for 1\.png"):
        make(clip_t=[0.1, float("nan"), 0.1, 0.1, 0.1])
    with pytest.raises(UserError, match="oracle_subject must be from -1 to 1, got inf"):
        make(oracle_subject=[0.1, float("inf"), 0.1, 0.1, 0.1])
    found = make(oracle_prompt=[0.2, 0.4, 0.6, 0.8, 0.0])
    assert found.means["oracle_prompt"] == pytest.approx(0.5)  # the plain prompt asks for nothing and does not count


def test_a_step_cannot_be_negative(make: Make) -> None:
    with pytest.raises(UserError, match="must be 0 or more, got -1"):
        make(step=-1)


def test_images_of_unrelated_prompts_have_their_own_score_and_no_other(make: Make) -> None:
    result = make()
    other = {"prompt": "a cat", "kind": "unrelated", "noise_seed": 0, "file": "0.png", "prior_kept": 0.75}
    rows = pd.concat([result.rows.assign(diversity=0.2), pd.DataFrame([other])], ignore_index=True)
    found = _with_rows(result, rows).means
    assert found["prior_kept"] == 0.75
    assert found["clip_t"] == pytest.approx(result.means["clip_t"])
    with pytest.raises(UserError, match=r"^prior_kept must be from -1 to 1, got nan for 0\.png"):
        _with_rows(result, rows.assign(prior_kept=float("nan")))
    with pytest.raises(UserError, match=r"^diversity must be from -2 to 2, got nan for 2\.png"):
        _with_rows(result, rows.assign(diversity=[0.2, 0.2, float("nan"), 0.2, 0.2, 0.2]))
