"""Damaged files: every change changes the file, cases are drawn from all, and ends of a command are told apart."""

import random
from pathlib import Path

import pytest

from experiments.reliability.boundaries import Outcome
from experiments.reliability.corruption import CHANGES, READERS, Case, outcome, planned

CASE = Case(READERS[2], "scale_sets/mug-1234/step-3.safetensors", "a bit")


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("content", [b"7", b"{}\n" * 700])
def test_a_change_changes_a_file(name: str, content: bytes) -> None:
    made = [CHANGES[name](content, random.Random(seed)) for seed in range(20)]
    assert content not in made
    assert made == [CHANGES[name](content, random.Random(seed)) for seed in range(20)]


def test_a_flip_changes_one_bit() -> None:
    for name in ("a bit", "a bit of the head", "a bit of the end"):
        content = random.Random(0).randbytes(100)
        made = CHANGES[name](content, random.Random(1))
        assert made is not None
        assert (int.from_bytes(content, "big") ^ int.from_bytes(made, "big")).bit_count() == 1


@pytest.mark.parametrize(
    ("code", "said", "left", "ended"),
    [
        (2, "quantbooth: the store's mug-1234 is damaged", [], "refused"),
        (1, "quantbooth: the store's mug-1234 is damaged", [], "refused"),
        (2, "quantbooth: something is damaged", [], "unnamed"),
        (2, "found mug-1234\nquantbooth: something is damaged", [], "unnamed"),
        (2, "quantbooth: the store's mug-1234 is damaged", [".draft"], "left"),
        (0, "quantbooth: the store's mug-1234 is damaged", [], "silent"),
        (1, "Traceback (most recent call last)\nquantbooth: mug-1234", [], "traceback"),
        (-9, "", [], "hang"),
    ],
)
def test_ends_are_told_apart(code: int, said: str, left: list[str], ended: str) -> None:
    assert outcome(Outcome(code, said, 0, 0.0), CASE, left) == ended


def test_cases_are_drawn_in_turn_from_every_kind_of_artifact_and_file(tmp_path: Path) -> None:
    store = tmp_path / "out" / "store"
    for file in ("scale_sets/a/manifest.json", "scale_sets/a/one.png", "scale_sets/a/two.png", "scores/b/rows.parquet"):
        (store / file).parent.mkdir(parents=True, exist_ok=True)
        (store / file).touch()
    sample = READERS[2]
    drawn = planned({sample: tmp_path}, 100, seed=0)
    assert {case.file for case in drawn[:2]} >= {"scale_sets/a/manifest.json"}
    assert {case.file for case in drawn} == {f"scale_sets/a/{name}" for name in ("manifest.json", "one.png", "two.png")}
    assert len(drawn) == len(set(drawn)) == 3 * len(CHANGES)
