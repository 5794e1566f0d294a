"""Verdicts on the paper's claims: what settles one, what leaves it undecided, rows that are missing."""

from collections.abc import Callable

import pytest

from experiments.claims import AS_GOOD, CLAIMS, LESS, MORE, PROMPT, SUBJECT, Claim, table, verdict
from quantbooth.reporting.columns import score_named
from quantbooth.reporting.inference import Difference, paired_comparison
from quantbooth.reporting.results import Result
from quantbooth.reporting.study import Study

NAMES = [f"toy_{number}" for number in range(8)]


def found(key: str, *differences: float) -> Difference:
    names = NAMES[: len(differences)]
    return paired_comparison(score_named(key), dict(zip(names, differences, strict=True)), dict.fromkeys(names, 0.0))


UP, DOWN = (0.1, 0.11, 0.09, 0.1, 0.12, 0.1, 0.1), (-0.1, -0.11, -0.09, -0.1, -0.12, -0.1, -0.1)
NOISE, SMALL = (0.2, -0.2, 0.1, -0.15, 0.2, -0.1, -0.04), (-0.01, -0.02, -0.01, -0.02, -0.01, -0.01, -0.02)


@pytest.mark.parametrize(
    ("expected", "differences", "says"),
    [
        (MORE, UP, "holds"),
        (MORE, DOWN, "does not"),
        (MORE, NOISE, "undecided"),
        (LESS, DOWN, "holds"),
        (LESS, UP, "does not"),
        (AS_GOOD, UP, "holds"),
        (AS_GOOD, SMALL, "holds"),
        (AS_GOOD, DOWN, "does not"),
        (AS_GOOD, NOISE, "undecided"),
        (MORE, UP[:5], "undecided"),
        (AS_GOOD, UP[:5], "undecided"),
    ],
)
def test_a_part_is_settled_by_interval_and_sign(expected: int, differences: tuple[float, ...], says: str) -> None:
    claim = Claim("x", "a", "b", {SUBJECT: expected}, "")
    assert verdict(claim, {SUBJECT: found(SUBJECT, *differences)}) == says


def test_a_claim_holds_only_where_all_of_it_does() -> None:
    claim = Claim("x", "a", "b", {SUBJECT: MORE, PROMPT: LESS}, "")
    by_score = {SUBJECT: found(SUBJECT, *UP), PROMPT: found(PROMPT, *NOISE)}
    assert verdict(claim, by_score) == "undecided"
    assert verdict(claim, by_score | {PROMPT: found(PROMPT, *UP)}) == "does not"
    assert verdict(claim, by_score | {PROMPT: found(PROMPT, *DOWN)}) == "holds"
    assert verdict(claim, {SUBJECT: by_score[SUBJECT]}) == "not measured"


def test_the_table_has_every_claim_and_measures_those_whose_rows_are_there(make: Callable[..., Result]) -> None:
    results: list[Result] = []
    for number, name in enumerate(NAMES):
        shift = number / 100
        results += [
            make("baseline-published", name, 100, oracle_subject=0.3 + shift, oracle_prompt=0.9),
            make("baseline-published", name, 400, oracle_subject=0.5 + shift, oracle_prompt=0.8 - shift),
        ]
        for outside in ("base", "tuned"):
            settings = {"strategy": {"outside": outside}}
            scores = {"oracle_subject": 0.2 + shift, "oracle_prompt": 0.9}
            results.append(make("s1-published", name, 400, settings=settings, run=f"{name}-{outside}", **scores))
    rows = {row.split(" | ")[0]: row for row in table(Study(tuple(results))).splitlines() if row.startswith("| ")}
    assert len(rows) == len(CLAIMS) + 2
    assert "| holds |" in rows[f"| {CLAIMS[0].text}"]
    assert "| does not |" in rows[f"| {CLAIMS[1].text}"] and "**−0.300" in rows[f"| {CLAIMS[1].text}"]
    assert sum("not measured" in row for row in rows.values()) == len(CLAIMS) - 3
