"""The paper's claims beside what a sweep measured: a table with a verdict for each.

python -m experiments.claims outputs/main_table/store/scores --folder experiments/claims
"""

import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from quantbooth.commands.report import method_styles, read_result
from quantbooth.reporting.columns import Score, score_named
from quantbooth.reporting.differences import difference_cell
from quantbooth.reporting.inference import FEWEST, Difference, Pair, corrected, difference
from quantbooth.reporting.study import Snapshot, Study
from quantbooth.reporting.tables import markdown
from quantbooth.runtime.errors import UserError

__all__ = ["CLAIMS", "Claim", "main", "table", "verdict"]

SUBJECT, PROMPT = "oracle_subject", "oracle_prompt"
SHOWN = (SUBJECT, "local_clip_i", PROMPT, "clip_t")
MORE, LESS, AS_GOOD = 1, -1, 0
MARGIN = 0.05
"""A score that is lower by less counts as good as the other."""
FILE = "table.md"


@dataclass(frozen=True, eq=False)
class Claim:
    """A claim on two rows of a study.

    Attributes:
        text: what is claimed.
        one: a row.
        other: the row that it is compared with; empty: the same row after its first scored step.
        expected: by score MORE, LESS or AS_GOOD.
        published: the figures that go with it, with their source.
    """

    text: str
    one: str
    other: str
    expected: Mapping[str, int]
    published: str


NOT_PUBLIC, OWN = "figures not public", "a claim of this project"
DEFAULT, DEFAULT_S2 = "baseline-scales_in_out", "s2-scales_in_out"
S1, S1_EVERYWHERE = "s1-published outside=base", "s1-published outside=tuned"
BETTER = {SUBJECT: MORE, PROMPT: AS_GOOD}
CLAIMS = (
    Claim(
        "the longer the baseline is tuned, the more subject and the less prompt",
        "baseline-published",
        "",
        {SUBJECT: MORE, PROMPT: LESS},
        NOT_PUBLIC,
    ),
    Claim("S1 improves on the baseline, with the base outside", S1, "baseline-published", BETTER, NOT_PUBLIC),
    Claim(
        "S1 improves on the baseline, with its set everywhere", S1_EVERYWHERE, "baseline-published", BETTER, NOT_PUBLIC
    ),
    Claim("S2 improves on the baseline", "s2-apart-published", "baseline-published", BETTER, NOT_PUBLIC),
    Claim("S2 in one run of equal samples does, too", "s2-published", "baseline-published", BETTER, NOT_PUBLIC),
    Claim("S2 is better than S1, with the base outside", "s2-apart-published", S1, BETTER, NOT_PUBLIC),
    Claim("S2 is better than S1, with its set everywhere", "s2-apart-published", S1_EVERYWHERE, BETTER, NOT_PUBLIC),
    Claim(
        "4 bits with tuned scales are as good as float",
        "baseline-published",
        "float-published",
        {SUBJECT: AS_GOOD, PROMPT: AS_GOOD},
        "v2, one subject: CLIP-I .787 against .746, CLIP-T .313 against .316",
    ),
    Claim(
        "gains of inputs improve on gains of outputs alone",
        "baseline-scales_in_out-published",
        "baseline-published",
        BETTER,
        "v2, one subject, with TAS: CLIP-I .802 against .787, CLIP-T .306 against .313",
    ),
    Claim("the default settings improve on the baseline", DEFAULT, "baseline-published", BETTER, OWN),
    Claim("4 bits with the default settings improve on float as published", DEFAULT, "float-published", BETTER, OWN),
    Claim("S2 with the default settings does, too", DEFAULT_S2, "float-published", BETTER, OWN),
    Claim("the default settings improve on QLoRA of rank 2 with the same prior", DEFAULT, "qlora", BETTER, OWN),
)


def verdict(claim: Claim, found: Mapping[str, Difference]) -> str:
    """Return `holds`, `does not` or `undecided`.

    MORE and LESS hold where the sign is settled. AS_GOOD holds where the interval stays above -MARGIN, and does not
    where the difference is settled and below it.
    """
    if not found.keys() >= claim.expected.keys():
        return "not measured"
    parts = {_part(expected, found[key]) for key, expected in claim.expected.items()}
    return next((part for part in ("does not", "undecided") if part in parts), "holds")


def _part(expected: int, found: Difference) -> str:
    if found.interval is None or found.interval.subjects < FEWEST:
        return "undecided"
    if expected == AS_GOOD:
        if found.interval.low > -MARGIN:
            return "holds"
        return "does not" if found.sign < 0 and found.mean < -MARGIN else "undecided"
    return {0: "undecided", expected: "holds"}.get(found.sign, "does not")


def table(study: Study) -> str:
    """Return the claims as a Markdown table; those whose rows the study lacks are not measured."""
    pairs = {claim: pair for claim in CLAIMS if (pair := _pair(study, claim)) is not None}
    scores = [score for score in study.scores if score.key in SHOWN]
    found = {score.key: _differences(study, pairs, score) for score in scores}
    head = ["claim", "rows compared", *(score_named(key).title for key in SHOWN if key in found), "here", "published"]
    rows = [list(_cells(claim, {key: own.get(claim) for key, own in found.items()})) for claim in CLAIMS]
    return "\n\n".join([_about(study), markdown(head, rows)]) + "\n"


def _about(study: Study) -> str:
    first = study.results[0]
    return (
        f"Base {first.base}; {len(study.subjects)} subjects, tuning seeds {', '.join(map(str, study.seeds))}; "
        f"{first.protocol}. Differences of means, paired by subject; in brackets the 95 % bootstrap interval over "
        "subjects, in bold where the sign is settled (p of the paired t-test below 5 % after Holm's correction over "
        f"all claims). More and less must be settled; as good is an interval above −{MARGIN:g}."
    )


def _pair(study: Study, claim: Claim) -> Pair | None:
    """Return the snapshots that a claim compares; None where one is missing."""
    methods = {study.label(method): method for method in study.complete}
    if claim.one not in methods:
        return None
    last: Snapshot = study.last(methods[claim.one])
    if claim.other:
        return (last, study.last(methods[claim.other])) if claim.other in methods else None
    steps = [step for step in study.steps(last[0]) if not study.missing(last[0], step)]
    return (last, (last[0], steps[0])) if len(steps) > 1 else None


def _differences(study: Study, pairs: Mapping[Claim, Pair], score: Score) -> dict[Claim, Difference]:
    made = {pair: one for pair in pairs.values() if (one := difference(study, *pair, score)) is not None}
    fixed = corrected(made)
    return {claim: fixed[pair] for claim, pair in pairs.items() if pair in fixed}


def _cells(claim: Claim, found: Mapping[str, Difference | None]) -> Iterator[str]:
    yield claim.text
    yield f"{claim.one} − {claim.other or 'itself after its first scored step'}"
    for key in SHOWN:
        if key in found:
            cell = difference_cell(found[key])
            yield f"**{cell.text}**" if cell.marked else cell.text
    yield verdict(claim, {key: one for key, one in found.items() if one is not None})
    yield claim.published


def main() -> int:
    """Read scores, write the table, print it."""
    parser = ArgumentParser(description=__doc__, prog="python -m experiments.claims")
    parser.add_argument("scores", type=Path, help="a folder of scores, as quantbooth-report takes it")
    parser.add_argument("--folder", type=Path, default=Path(__file__).with_suffix(""))
    given = parser.parse_args()
    folders = sorted(file.parent for file in given.scores.glob("*/manifest.json"))
    try:
        text = table(Study(tuple(read_result(folder) for folder in folders), method_styles()))
    except UserError as error:
        sys.stderr.write(f"claims: {error}\n")
        return 2
    given.folder.mkdir(parents=True, exist_ok=True)
    (given.folder / FILE).write_text(text)
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
