"""The program that measures what scoring costs: it scores what it draws, and compares what it says it compares."""

import math

import pytest

from experiments.scoring_cost import deviation, main, requests


def test_it_scores_every_picture_and_tells_how_far_batches_differ(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--images", "20", "--batch", "6", "--compared", "9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["2 pictures", "20 pictures", "scored 8 at a time and one by one"]
    assert float(lines[2].rsplit(" ", 1)[1]) < 1e-5


def test_prompts_come_in_turn_with_four_seeds_each() -> None:
    asked = requests(104)
    assert [request.seed for request in asked[:5]] == [0, 1, 2, 3, 0]
    assert len({request.prompt for request in asked}) == 26
    assert asked[0].judged_text == asked[100].judged_text  # the 25 sentences begin again


def test_the_largest_difference_of_any_value() -> None:
    one, other = [{"a": 1.0, "b": math.nan}, {"a": 2.0, "b": 0.0}], [{"a": 1.5, "b": math.nan}, {"a": 2.0, "b": -1.0}]
    assert deviation(one, other) == 1.0
    assert deviation(one, one) == 0.0
    assert deviation([{"a": math.nan}], [{"a": 1.0}]) == math.inf
