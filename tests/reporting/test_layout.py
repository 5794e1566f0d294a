"""Simulated activations: every table with such a setting says so, no other does."""

from collections.abc import Callable

from quantbooth.reporting.layout import simulated
from quantbooth.reporting.results import Result
from quantbooth.reporting.tables import as_markdown, table


def test_settings_are_told_by_how_their_names_end() -> None:
    note = simulated(["w4", "w4a8", "fp", "w8a6", "w4a8"])
    assert note is not None and note.startswith("w4a8, w8a6 - activations: simulated integers")
    assert simulated(["w4", "fp", "w8"]) is None


def test_a_table_of_results_says_so(make: Callable[..., Result]) -> None:
    weights, both = make("s1"), make("s1", quant="w4a8")
    assert "w4a8 - activations: simulated integers" in as_markdown(table([weights, both]), "caption")
    assert "simulated" not in as_markdown(table([weights]), "caption")
