"""The table of overfitting: means over runs, and runs without the figures."""

from collections.abc import Callable

from quantbooth.reporting.overfitting import as_markdown
from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Study

Make = Callable[..., Result]


def test_a_row_has_the_mean_of_the_runs_that_measured_it(make: Make) -> None:
    runs = [make("s2", seed=seed, costs={"overfitting": [0.1 * seed, 0.25]}) for seed in (0, 1)]
    study = Study((make("base", step=0), *runs, make("s1", costs={})))
    assert [line for line in as_markdown(study).splitlines() if line.startswith("|")] == [
        "| method | 1 | 2 |",
        "| --- | ---: | ---: |",
        "| s2 | 0.050 | 0.250 |",
    ]


def test_without_figures_the_table_says_so(make: Make) -> None:
    assert as_markdown(Study((make("s1", costs={}),))) == "No run has measured its overfitting.\n"
