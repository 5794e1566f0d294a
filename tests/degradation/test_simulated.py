"""Simulated activations: a degradation document with such a setting says so, no other does."""

from collections.abc import Callable
from pathlib import Path

from quantbooth.degradation.document import write_document
from quantbooth.degradation.files import DegradationResult

MakeDegradation = Callable[..., DegradationResult]


def test_a_degradation_document_says_so(make_degradation: MakeDegradation, tmp_path: Path) -> None:
    page = tmp_path / "degradation.md"
    write_document(
        [make_degradation("fp"), make_degradation(), make_degradation("w4a8")], page, tmp_path / "files", 1, []
    )
    assert page.read_text().count("w4a8 - activations: simulated integers") == 1
    write_document([make_degradation("fp"), make_degradation()], page, tmp_path / "files", 1, [])
    assert "simulated" not in page.read_text()
