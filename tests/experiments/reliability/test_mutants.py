"""The program that plants mistakes: what it plants, that a draw lasts, which tests it chooses, and what it counts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.reliability.known import KNOWN, Known
from experiments.reliability.mutants import HERE, PACKAGE, drawn, keep, selected, table
from experiments.reliability.operators import mutants_of
from experiments.reliability.warm import Hits, planted

SOURCE = b'''"""Text - more."""

SIZE = 2


def area(a: int, b: int = 1) -> int:
    """Return a * b - 0."""
    if not a:
        raise ValueError(f"a + b is {a + b}")
    return a * b


def last(x: list[int]) -> int:
    return min(x[1:], key=abs)[0].detach()
'''


def made(where: str) -> set[tuple[str, str]]:
    return {(one.kind, one.after) for one in mutants_of("a.py", SOURCE) if one.where == where}


def test_mistakes_are_in_code_and_not_in_texts_annotations_and_messages() -> None:
    assert made("") == {("constant", "1")}
    early = {("return early", "a"), ("return early", "b")}
    assert made("area") == {("constant", "2"), ("not", "a"), ("arithmetic", "(a / b)")} | early
    assert ("slice", "(x[:1])") in made("last")
    assert ("keyword", "min(x[1:])") in made("last")
    assert ("twin", "max(x[1:], key=abs)") in made("last")
    assert ("dropped", "(min(x[1:], key=abs)[0])") in made("last")


def test_each_changes_its_own_place_only_and_compiles() -> None:
    for one in mutants_of("a.py", SOURCE):
        text = one.planted(SOURCE)
        assert text == SOURCE[: one.start] + one.after.encode() + SOURCE[one.end :] != SOURCE
        compile(text, "a.py", "exec")


def test_a_draw_is_seeded_and_changes_elsewhere_in_the_file_keep_it() -> None:
    names = [one.name for one in drawn("a.py", SOURCE, 0, 4)]
    longer = b"def first(x: int) -> int:\n    return x\n\n\n" + SOURCE
    assert [one.name for one in drawn("a.py", longer, 0, 4)] == names
    assert len({name.split(": ")[1] for name in names}) == 4  # as many kinds
    assert any([one.name for one in drawn("a.py", SOURCE, seed, 4)] != names for seed in (1, 2))


@pytest.mark.parametrize("one", KNOWN, ids=lambda one: one.title)
def test_the_text_of_a_known_mistake_is_there_once(one: Known) -> None:
    source = (PACKAGE / one.file).read_bytes()
    assert one.planted(source) != source
    assert all((PACKAGE.parents[1] / test).is_file() for test in one.tests)
    with pytest.raises(ValueError, match="found it 2 times"):
        one.planted(source + one.before.encode())
    with pytest.raises(ValueError, match="found it 0 times"):
        replace(one, before="no such text").planted(source)


def test_the_nearest_tests_come_first_and_the_rest_of_the_room_only_when_asked() -> None:
    def hit(*entered: str, seconds: float = 1.0) -> dict[str, object]:
        return {"seconds": seconds, "entered": list(entered)}

    hits: Hits = {
        "tests/data/test_b.py::own": hit("data/a.py area", seconds=3.0),
        "tests/data/test_a.py::own": hit("data/a.py area"),
        "tests/run/test_r.py::other": hit("data/a.py area", "run/r.py run"),
        "tests/run/test_r.py::file": hit("data/a.py last"),
        "tests/data/test_c.py::chain": hit(seconds=10.0),
        "tests/data/test_a.py::hours": hit("data/a.py area", seconds=3600.0),
        "tests/run/test_r.py::none": hit("run/r.py run"),
    }
    one = next(one for one in mutants_of("data/a.py", SOURCE) if one.where == "area")
    near, far = selected(one, hits, False), selected(one, hits, True)
    assert near == [[*list(hits)[1::-1]], ["tests/run/test_r.py::other", "tests/run/test_r.py::file"]]
    assert far == [near[0], [*near[1], "tests/data/test_c.py::chain"]]


def test_a_file_has_its_text_and_time_again_also_after_an_error(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_bytes(SOURCE)
    before = file.stat().st_mtime_ns
    with pytest.raises(RuntimeError), planted(file, b"x"):
        assert file.read_bytes() == b"x"
        assert file.stat().st_mtime_ns != before
        raise RuntimeError
    assert (file.read_bytes(), file.stat().st_mtime_ns) == (SOURCE, before)


def test_what_survives_is_counted_unless_it_is_equivalent() -> None:
    several = mutants_of("data/a.py", SOURCE)[:4]
    results = {one.name: {"killed_by": test} for one, test in zip(several, ("t", "time", None), strict=False)}
    counts = table([*several, *KNOWN], results, {several[3].name: "why"})
    assert counts == {
        "data": (expected := {"planted": 4, "killed": 2, "equivalent": 1, "survived": 1}),
        "all": expected,
    }


def test_a_file_holds_several_draws_and_the_newest_of_each(tmp_path: Path) -> None:
    out = tmp_path / "mutants.json"
    for seed, each, commit in ((1, 2, "a"), (0, 5, "b"), (1, 2, "c"), (1, 1, "d")):
        keep(out, {"seed": seed, "each": each, "commit": commit, "rooms": {}, "seen_by": {}})
    draws = json.loads(out.read_text())["draws"]
    assert [(one["seed"], one["each"], one["commit"]) for one in draws] == [(0, 5, "b"), (1, 1, "d"), (1, 2, "c")]


@pytest.mark.parametrize("draw", json.loads((HERE / "mutants.json").read_text())["draws"], ids=lambda one: one["seed"])
def test_in_the_committed_table_every_mistake_is_seen_or_equivalent_with_a_reason(draw: dict[str, Any]) -> None:
    equivalent = json.loads((HERE / "equivalent.json").read_text())
    unseen = {name for name, test in draw["seen_by"].items() if test is None}
    counts = draw["rooms"]["all"]
    assert counts["planted"] == len(draw["seen_by"]) == counts["killed"] + counts["equivalent"]
    assert counts["equivalent"] == len(unseen)
    assert unseen <= {name for name, reason in equivalent.items() if reason}
    assert {one.name for one in KNOWN} <= draw["seen_by"].keys() - unseen


def test_more_than_300_mistakes_were_planted_and_every_reason_belongs_to_one() -> None:
    draws = json.loads((HERE / "mutants.json").read_text())["draws"]
    planted_names = {name for draw in draws for name in draw["seen_by"]}
    assert len(planted_names) > 300
    assert json.loads((HERE / "equivalent.json").read_text()).keys() <= planted_names
