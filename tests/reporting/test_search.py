"""The trials of a search: the Pareto set against brute force, ties, undefined objectives, and what the files say."""

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from quantbooth.reporting.areas import nondominated, pareto_front
from quantbooth.reporting.page import About, write_report
from quantbooth.reporting.results import Result
from quantbooth.reporting.search import pareto_plot, trial_table, trials
from quantbooth.reporting.study import Study
from quantbooth.runtime.errors import UserError

Make = Callable[..., Result]
BOTH = ("clip_t", "local_clip_i")


def brute(points: list[tuple[float, ...]]) -> list[bool]:
    """The definition, one comparison of two numbers at a time."""
    found = []
    for k, own in enumerate(points):
        passed = any(math.isnan(value) for value in own)
        for other in (point for j, point in enumerate(points) if j != k):
            pairs = list(zip(other, own, strict=True))
            passed |= all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)
        found.append(not passed)
    return found


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_the_pareto_set_is_that_of_the_definition_with_ties_and_undefined_scores(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    sizes = []
    for count in [*range(1, 9)] * 5:
        points = rng.integers(0, 4, (count, objectives)).astype(float)  # few values, so that many are equal
        points[rng.random(points.shape) < 0.1] = np.nan
        rows = [tuple(map(float, row)) for row in points]
        assert nondominated(rows) == brute(rows)
        sizes.append(sum(brute(rows)))
    assert sum(sizes) > 0 and max(sizes) > 1


def test_the_front_of_curves_is_the_pareto_set_without_repetitions_from_left_to_right() -> None:
    for points in itertools.product([(x, y) for x in (0.0, 1.0, 2.0) for y in (0.0, 1.0, 2.0)], repeat=3):
        front = [points[k] for k in pareto_front(points)]
        assert sorted(set(front)) == front
        assert set(front) == {point for point, ahead in zip(points, brute(list(points)), strict=True) if ahead}
        assert pareto_front(points) == sorted(pareto_front(points), key=lambda k: points[k])
    assert nondominated([]) == []


def trial(make: Make, rate: float, subject: str = "toy_mug", method: str = "s1", **scores: Any) -> Result:
    return make(
        method, subject, settings={"tuner": {"learning_rate": rate}}, run=f"{method}-{rate}-{subject}", **scores
    )


@pytest.fixture
def found(make: Make) -> Study:
    scores = {0.01: (0.30, 0.60), 0.0234567: (0.25, 0.70), 0.03: (0.24, 0.65), 0.04: (0.30, 0.60)}
    made = [trial(make, rate, clip_t=x, local_clip_i=y) for rate, (x, y) in scores.items()]
    return Study((make("base", step=0), *made, trial(make, 0.05, method="s2", clip_t=0.2, local_clip_i=0.8)))


def test_trials_have_parameters_objectives_and_their_place_on_the_front(found: Study) -> None:
    table = trial_table(found, BOTH)
    rows = [[cell.text for cell in table.cells(row)] for row in table.rows]
    assert [column.title for column in table.shown] == ["front", "learning_rate", "CLIP-T", "local CLIP-I"]
    assert [(row.label, *cells) for row, cells in zip(table.rows, rows, strict=True)] == [
        ("s1", "1", "0.01", "0.300", "0.600"),
        ("s1", "2", "0.04", "0.300", "0.600"),  # equal to the first: both stay
        ("s1", "3", "0.02346", "0.250", "0.700"),
        ("s2", "4", "0.05", "0.200", "0.800"),
        ("s1", "–", "0.03", "0.240", "0.650"),  # 0.0234567 passes it in both
    ]
    marked = [[cell.marked for cell in table.cells(row)][2:] for row in table.rows]
    assert marked == [[True, True]] * 4 + [[False, False]]
    assert table.notes[0].startswith("5 different trials, 4 on the front")
    (best,) = [one for one in trials(found, ("local_clip_i",)) if one.place is not None]
    assert list(best.values) == pytest.approx([0.8]) and best.method.name == "s2"


def test_the_order_of_objectives_is_that_of_the_columns_and_of_the_axes(found: Study) -> None:
    swapped = trial_table(found, BOTH[::-1])
    assert [column.title for column in swapped.shown][2:] == ["local CLIP-I", "CLIP-T"]
    assert swapped.rows[0].label == "s2"
    assert trials(found, BOTH[::-1])[0].values == pytest.approx((0.8, 0.2))


def test_a_trial_that_lacks_a_subject_or_a_score_is_on_no_front(make: Make) -> None:
    made = [trial(make, 0.01, subject, clip_t=0.2) for subject in ("mug", "duck")]
    lacking = trial(make, 0.02, "mug", clip_t=0.9)
    first, second = trials(Study((*made, lacking)), ("clip_t",))
    assert (first.place, second.place) == (1, None)
    assert first.parameters == ("learning_rate=0.01",) and math.isnan(second.values[0])
    undefined = [trial(make, rate, oracle_prompt=value) for rate, value in ((0.1, np.nan), (0.2, 0.5))]
    table = trial_table(Study(tuple(undefined)), ("clip_t", "oracle_prompt"))
    assert [[cell.text for cell in table.cells(row)] for row in table.rows] == [
        ["1", "0.2", "0.300", "0.500"],
        ["–", "0.1", "0.300", "–"],
    ]
    assert "1 without every objective" in table.notes[0]


def test_an_objective_that_was_not_scored_is_refused(found: Study) -> None:
    with pytest.raises(UserError, match=r"objectives has dino, prior_kept, which these results lack; they have local_"):
        trials(found, ("clip_t", "dino", "prior_kept"))


def test_the_plot_numbers_the_front_and_says_it_in_words(found: Study) -> None:
    text = pareto_plot(found, BOTH)
    assert text is not None
    ElementTree.fromstring(text)
    assert {"1", "2", "3", "4"} <= set(re.findall(r"<text[^>]*>([^<]*)</text>", text))
    assert "5 trials by CLIP-T and local CLIP-I. On the front: 1: 0.300 and 0.600; 2: 0.300 and 0.600; 3: 0.250" in text
    assert text == pareto_plot(found, BOTH)
    assert pareto_plot(found, ("clip_t",)) is None
    assert pareto_plot(found, (*BOTH, "oracle_subject")) is not None


def test_the_page_has_the_search_with_its_files_only_where_it_has_objectives(found: Study, tmp_path: Path) -> None:
    names = {"trials.md", "trials.csv", "pareto.svg"}
    files = write_report(found, tmp_path / "with", About(objectives=BOTH))
    assert names <= {file.name for file in files}
    html = (tmp_path / "with" / "index.html").read_text()
    assert '<section id="search"' in html and 'id="plot-pareto-title"' in html
    assert html.count("(on the front)") == 8
    rows = pd.read_csv(tmp_path / "with" / "trials.csv")
    assert rows["option learning_rate"].tolist() == [0.01, 0.04, 0.0234567, 0.05, 0.03]
    assert rows["front"].tolist()[:4] == [1, 2, 3, 4] and math.isnan(rows["front"][4])
    plain = write_report(found, tmp_path / "without", About())
    assert not names & {file.name for file in plain}
    assert 'id="search"' not in (tmp_path / "without" / "index.html").read_text()
