"""Hostile files of every kind are refused in one line: none is used, hangs, starts a program or ends in a traceback."""

from pathlib import Path

import pytest

from experiments.reliability.hostile import REFUSED, Case, cases, outcome

CASES = list(cases())


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_hostile_file_is_refused_in_one_line(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    assert outcome(case, folder) == REFUSED


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 200 and len({case.name for case in CASES}) == len(CASES)
