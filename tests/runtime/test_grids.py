"""Grids of intervals in one word: the intervals that Hydra sweeps over, and refusals of all else."""

from collections.abc import Callable

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from quantbooth import programs
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.grids import with_grids


@pytest.mark.parametrize(
    ("grid", "intervals"),
    [
        ("intervals(0,1000,200)", [[0, 200], [200, 400], [400, 600], [600, 800], [800, 1000]]),
        ("intervals( 0, 1000, 500 )", [[0, 500], [500, 1000]]),
        ("intervals(100,900,400,200)", [[100, 500], [300, 700], [500, 900]]),
        ("intervals(0,10,10)", [[0, 10]]),
    ],
)
def test_a_grid_is_the_list_of_its_intervals(grid: str, intervals: list[list[int]]) -> None:
    (word, other) = with_grids([f"strategy.interval={grid}", "seed=0,1"], sweeps=True)
    swept = OverridesParser.create().parse_override(word)
    texts = swept.sweep_string_iterator() if swept.is_sweep_override() else [swept.get_value_element_as_str()]
    assert [OverridesParser.create().parse_override(f"a={text}").value() for text in texts] == intervals
    assert other == "seed=0,1"


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        ("intervals(0,1000,300)", r"leaves \[900,1000\] over; choose a WIDTH or STEP that ends at 1000$"),
        ("intervals(0,1000,400,250)", r"leaves \[900,1000\] over"),
        ("intervals(0,1000)", r"must be strategy.interval=intervals\(START,STOP,WIDTH\) or "),
        ("intervals(0,1000,a)", "of whole numbers$"),
        ("intervals(0,1000,200", "of whole numbers$"),
        ("intervals(0,1000,200),[0,1000]", "of whole numbers$"),
        ("intervals(1000,0,200)", "must have START < STOP"),
        ("intervals(0,1000,0)", "must have START < STOP"),
        ("intervals(0,1000,200,0)", "must have START < STOP"),
        ("intervals(0,100000,1)", "makes 100000 jobs, at most 1000"),
    ],
)
def test_another_grid_is_refused(grid: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        with_grids([f"strategy.interval={grid}"], sweeps=True)
    assert str(caught.value).startswith(f"strategy.interval={grid} ")


def test_outside_of_a_sweep_a_grid_is_refused(typed: Callable[..., tuple[int, str]]) -> None:
    code, said = typed(programs.tune, "strategy=s1", "strategy.interval=intervals(0,1000,200)")
    assert (code, said) == (
        2,
        "quantbooth: strategy.interval=intervals(0,1000,200) makes 5 jobs, which a sweep runs: write -m before the "
        "options\n",
    )


def test_a_grid_of_another_option_is_refused_as_its_intervals_are(typed: Callable[..., tuple[int, str]]) -> None:
    code, said = typed(programs.tune, "-m", "tuner.steps=intervals(0,4,2)")
    assert code == 2 and "tuner.steps must be a whole number from 1" in said and "got [0, 2]" in said
