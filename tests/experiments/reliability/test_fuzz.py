"""Random command lines end in success or in one line for each mistake; the same seed draws the same ones."""

from pathlib import Path

import pytest

from experiments.reliability.fuzz import Case, Fuzzer, outcome

FOUND = [Case("degradation", ("++trainer.limit_train_batches=inf", "++protocol.batch=25"))]
"""Cases that once ended in a traceback."""


def wrong(cases: list[Case], base: Path, folder: Path, runs: bool = False) -> dict[str, str]:
    """Return what is said by cases that end otherwise."""
    ended = {str(case): outcome(case, base, folder, runs) for case in cases}
    return {case: said for case, (kind, said) in ended.items() if kind not in ("accepted", "refused")}


@pytest.mark.chain
def test_the_same_seed_draws_the_same_cases() -> None:
    assert list(Fuzzer(3).cases(20)) == list(Fuzzer(3).cases(20))
    assert list(Fuzzer(3).cases(20)) != list(Fuzzer(4).cases(20))


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 4))])
@pytest.mark.chain
def test_random_options_are_accepted_or_refused(part: int, base_folder: Path, tmp_path: Path) -> None:
    assert wrong(list(Fuzzer(100 + part).cases(30)), base_folder, tmp_path) == {}


def test_what_was_found_is_mended(base_folder: Path, tmp_path: Path) -> None:
    assert wrong(FOUND, base_folder, tmp_path) == {}


@pytest.mark.slow
def test_random_runs_finish_or_are_refused(base_folder: Path, tmp_path: Path) -> None:
    assert wrong(list(Fuzzer(200, small=True).cases(60)), base_folder, tmp_path, runs=True) == {}
