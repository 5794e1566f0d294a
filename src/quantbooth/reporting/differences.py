"""Paired differences between methods, and how each score moves with the steps: tables for documents and the page."""

from collections.abc import Sequence

from quantbooth.reporting.claims import FEWEST, Difference, Snapshot, family, pairs, share_of_gain
from quantbooth.reporting.columns import NOTHING, Score, signed
from quantbooth.reporting.layout import Cell, Written, markdown
from quantbooth.reporting.statistics import Interval
from quantbooth.reporting.study import BASE, Arm, Study

__all__ = [
    "as_markdown",
    "difference_cell",
    "difference_sheet",
    "paired",
    "share_sheet",
    "sheet_markdown",
    "steps_sheet",
]

SHOWN = ("local_clip_i", "clip_t", "oracle_subject", "oracle_prompt")
GAINED = ("local_clip_i", "oracle_subject")


def difference_sheet(study: Study) -> Written:
    """Rows: what tuning did to each base, each method against baseline and float, and late against early steps."""
    scores = _shown(study)
    told = [family(study, score) for score in scores]
    rows = []
    for one, other in pairs(study):
        found = [differences.get((one, other)) for differences in told]
        if any(found):
            label = f"{_named(study, one, other)} − {_named(study, other, one)}"
            rows.append((label, tuple(map(difference_cell, found))))
    return _written([score.title for score in scores], rows)


def share_sheet(study: Study) -> Written:
    """Rows: every tuned method; what it gained over its own untuned base, in per cent of float's gain."""
    scores = [score for score in study.scores if score.key in GAINED]
    floats = [arm for arm in study.arms if arm.method == "float"]
    rows = []
    for arm in study.arms:
        shares = [share_of_gain(study, arm, floats[0], score) for score in scores] if floats else []
        if not arm.untuned and arm not in floats and any(shares):
            rows.append((study.label(arm), tuple(map(_share, shares))))
    return _written([f"{score.title}, % of float's gain" for score in scores], rows)


def steps_sheet(study: Study, score: Score) -> Written:
    """Rows: every tuned method; its mean after each number of steps that a complete snapshot was kept of."""
    tuned = [arm for arm in study.arms if not arm.untuned]
    steps = sorted({0, *(step for arm in tuned for step in study.steps(arm))})
    rows = [
        (
            study.label(arm),
            tuple(_mean(study, (arm, step) if step else (Arm(BASE, arm.quant), 0), score) for step in steps),
        )
        for arm in tuned
    ]
    return _written([f"{step:,}" for step in steps], rows)


def as_markdown(study: Study) -> str:
    """All of it, each table under a line that says what it is."""
    parts = [
        paired(study),
        sheet_markdown("difference", difference_sheet(study)),
    ]
    if (shares := share_sheet(study)).labels:
        parts += [
            "What each method gained over its own untuned base, as a share of what float gained.",
            sheet_markdown("method", shares),
        ]
    for score in _shown(study):
        parts += [
            f"{score.title} after so many steps; 0 is the untuned base.",
            sheet_markdown("method", steps_sheet(study, score)),
        ]
    return "\n\n".join(parts) + "\n"


def paired(study: Study) -> str:
    """How the differences were made, and what they are not."""
    count, seeds = len(study.subjects), len(study.seeds)
    averaged = f", {seeds} tuning seeds averaged within each" if seeds > 1 else ""
    if count == 1:
        return f"Of one subject{averaged}: no interval, and no proof."
    few = f"none is marked, since fewer than {FEWEST} subjects settle no sign and their intervals are too narrow."
    marked = (
        "marked where it excludes zero and the paired t-test's p, corrected for all differences of its column (Holm), "
        "is below 5 %. After it, in round brackets, the smallest true difference that these subjects would settle four "
        "times in five among so many: what is smaller is as good as noise."
    )
    return (
        f"Paired by subject over {count} of them{averaged}; in brackets the 95 % bootstrap interval over subjects, "
        f"{marked if count >= FEWEST else few}"
    )


def _named(study: Study, one: Snapshot, other: Snapshot) -> str:
    """The method, with its steps where they are what differs."""
    arm, step = one
    return f"{study.label(arm)} at {step:,} steps" if arm == other[0] else study.label(arm)


def difference_cell(found: Difference | None) -> Cell:
    """The difference with its interval and the smallest that would be seen, marked where it is settled."""
    if found is None:
        return Cell(NOTHING)
    unit = found.score.unit
    text = signed(found.mean, unit)
    if found.interval is not None:
        text += f" [{signed(found.interval.low, unit)}, {signed(found.interval.high, unit)}]"
    if found.seen_from is not None:
        text += f" ({unit.text(found.seen_from)})"
    return Cell(text, best=found.interval is not None and found.sign != 0)


def _share(found: Interval | None) -> Cell:
    return Cell(NOTHING if found is None else f"{100 * found.mean:.0f} [{100 * found.low:.0f}, {100 * found.high:.0f}]")


def _mean(study: Study, snapshot: Snapshot, score: Score) -> Cell:
    means = {} if study.missing(*snapshot) else study.means(*snapshot, score.key)
    return Cell(score.unit.text(sum(means.values()) / len(means)) if means else NOTHING)


def _shown(study: Study) -> list[Score]:
    return [score for score in study.scores if score.key in SHOWN]


def _written(titles: Sequence[str], rows: Sequence[tuple[str, tuple[Cell, ...]]]) -> Written:
    return Written(tuple(titles), tuple(label for label, _ in rows), tuple(cells for _, cells in rows))


def sheet_markdown(first: str, sheet: Written) -> str:
    """The sheet as a table, what is marked in bold; `first` stands above the labels."""
    rows = [
        [label, *(f"**{cell.text}**" if cell.best else cell.text for cell in cells)] for label, cells in sheet.rows()
    ]
    return markdown([first, *sheet.titles], rows)
