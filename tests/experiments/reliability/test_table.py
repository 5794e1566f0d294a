"""The table of attacks: one row each, with counts read from files, and a word where a file is not there."""

import json
from pathlib import Path

from experiments.reliability.table import ATTACKS, HEAD, HERE, rows


def test_a_row_for_every_attack_even_without_a_file(tmp_path: Path) -> None:
    made = list(rows(tmp_path))
    assert [row[0] for row in made] == [attack.name for attack in ATTACKS]
    assert {len(row) for row in made} == {len(HEAD)} and {row[2] for row in made} == {"not run"}


def test_kills_and_faults_are_counted_apart(tmp_path: Path) -> None:
    wrong = [
        {"name": "tune kill 3", "wrong": ["x"]},
        {"name": "tune EIO 3", "wrong": ["x"]},
        {"name": "data after 1", "wrong": []},
    ]
    counts = {
        "commit": "abc",
        "kills": 2000,
        "faults": 70,
        "cases": {"tune kill": 2000, "tune EIO": 70},
        "wrong": wrong,
    }
    (tmp_path / "kills.json").write_text(json.dumps(counts))
    kills, faults, *_ = rows(tmp_path)
    assert (kills[2:4], faults[2:4]) == (("2,000", "2"), ("70", "1"))


def test_a_mistake_of_several_draws_counts_once(tmp_path: Path) -> None:
    draws = [
        {"commit": "a", "rooms": {"all": {"survived": 0}}, "seen_by": {"one": "t", "two": None}},
        {"commit": "b", "rooms": {"all": {"survived": 1}}, "seen_by": {"one": "t", "three": None}},
    ]
    (tmp_path / "mutants.json").write_text(json.dumps({"draws": draws}))
    (row,) = [row for row in rows(tmp_path) if row[0].startswith("mistakes")]
    assert row[2:6] == ("3", "1", "different ones in 2 draws: 1 seen by a test, 1 change nothing", "a, b")


def test_the_table_is_made_of_the_files_beside_it() -> None:
    text = (HERE / "table.md").read_text()
    for row in rows(HERE):
        assert all(cell in text for cell in row)
