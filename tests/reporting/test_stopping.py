"""The table of trainings that could stop: a row for each, and runs without the figures."""

from collections.abc import Callable

from quantbooth.reporting.results import Result
from quantbooth.reporting.stopping import as_markdown
from quantbooth.reporting.study import Study
from quantbooth.reporting.tables import as_text
from quantbooth.tuning.stopping import AT_THE_END, BY_LOSS, BY_PROMPTS

Make = Callable[..., Result]


def test_each_training_has_a_row_with_its_last_step_and_why(make: Make) -> None:
    apart = {"stopped_at": [120, 400], "stopped_by": [BY_LOSS, AT_THE_END]}
    guarded = {"stopped_at": [1200], "stopped_by": [BY_PROMPTS]}
    runs = [make("s2", costs=apart), make("s1", seed=3, costs=guarded), make("baseline", costs={})]
    found = [line for line in as_markdown(Study((make("base", step=0), *runs))).splitlines() if line.startswith("|")]
    subject = as_text(runs[0].subject)
    assert found[0] == "| method | subject | seed | training | steps | ended by |"
    assert sorted(found[2:]) == [
        f"| s1 | {subject} | 3 | 1 | 1,200 | prompt fidelity fell |",
        f"| s2 | {subject} | 0 | 1 | 120 | the loss no longer moves |",
        f"| s2 | {subject} | 0 | 2 | 400 | its last step |",
    ]


def test_without_figures_the_table_says_so(make: Make) -> None:
    assert as_markdown(Study((make("s1", costs={}),))) == "No training could stop before its last step.\n"
