"""Paired differences between methods, and how each score moves with the steps: tables for documents and the page."""

from collections.abc import Mapping

from quantbooth.reporting.columns import NOTHING, Score, signed
from quantbooth.reporting.inference import FEWEST, Difference, all_differences, pairs, share_of_gain
from quantbooth.reporting.statistics import Interval
from quantbooth.reporting.study import Snapshot, Study
from quantbooth.reporting.tables import Cell, Column, Row, Table

__all__ = ["as_markdown", "difference_cell", "difference_table", "paired", "share_table", "steps_table"]

SHOWN = ("local_clip_i", "clip_t", "oracle_subject", "oracle_prompt")
GAINED = ("local_clip_i", "oracle_subject")
SHARES = "Gain of each method over its untuned base, as a share of float's gain."


def difference_table(study: Study) -> Table:
    """Return rows of tuned against untuned, each method against the references, late against early steps."""
    found = {score.key: all_differences(study, score) for score in _shown(study)}
    rows = [
        Row(
            f"{_named(study, one, other)} − {_named(study, other, one)}",
            {key: difference_cell(differences.get((one, other))) for key, differences in found.items()},
        )
        for one, other in pairs(study)
        if any((one, other) in differences for differences in found.values())
    ]
    return Table("difference", tuple(Column(score.key, score.title) for score in _shown(study)), tuple(rows))


def share_table(study: Study) -> Table:
    """Return rows of every tuned method: its gain over its untuned base, in per cent of float's gain."""
    scores = [score for score in study.scores if score.key in GAINED]
    whole = next((method for method in study.methods if method.name == "float"), None)
    rows = []
    for method in study.tuned if whole else ():
        shares = {s.key: share_of_gain(study, method, whole, s) for s in scores} if whole and method != whole else {}
        if any(shares.values()):
            rows.append(Row(study.label(method), {key: _share(found) for key, found in shares.items()}))
    columns = tuple(Column(score.key, f"{score.title}, % of float's gain") for score in scores)
    return Table("method", columns, tuple(rows))


def steps_table(study: Study, score: Score) -> Table:
    """Return rows of every tuned method: its mean at each complete snapshot."""
    steps = sorted({0, *(step for method in study.tuned for step in study.steps(method))})
    rows = []
    for method in study.tuned:
        start = study.start(method)
        at = {str(s): (method, s) if s else (start, 0) for s in steps if s or start}
        rows.append(Row(study.label(method), _means(study, {s: (a, n) for s, (a, n) in at.items() if a}, score)))
    return Table("method", tuple(Column(str(step), f"{step:,}") for step in steps), tuple(rows))


def as_markdown(study: Study) -> str:
    """Return all tables, each under its title."""
    parts = [paired(study), difference_table(study).to_markdown()]
    if (shares := share_table(study)).rows:
        parts += [SHARES, shares.to_markdown()]
    for score in _shown(study):
        parts += [
            f"{score.title} after so many steps; 0 is the untuned base.",
            steps_table(study, score).to_markdown(),
        ]
    return "\n\n".join(parts) + "\n"


def paired(study: Study) -> str:
    """Return how the differences were computed, and their limits."""
    count, seeds = len(study.subjects), len(study.seeds)
    averaged = f", {seeds} tuning seeds averaged within each" if seeds > 1 else ""
    if count == 1:
        return f"Of one subject{averaged}: no interval, and no proof."
    few = f"none is marked: with fewer than {FEWEST} subjects no sign is settled and intervals are too narrow."
    marked = (
        "marked where it excludes zero and the paired t-test's p, corrected for all differences of its column (Holm), "
        "is below 5 %. After it, in round brackets, the smallest true difference that these subjects would settle four "
        "times in five among so many: what is smaller is as good as noise."
    )
    return (
        f"Paired by subject over {count} of them{averaged}; in brackets the 95 % bootstrap interval over subjects, "
        f"{marked if count >= FEWEST else few}"
    )


def difference_cell(found: Difference | None) -> Cell:
    """Return the difference with its interval and the smallest that would be seen, marked where it is settled."""
    if found is None:
        return Cell()
    unit = found.score.unit
    text = signed(found.mean, unit)
    if found.interval is not None:
        text += f" [{signed(found.interval.low, unit)}, {signed(found.interval.high, unit)}]"
    if found.seen_from is not None:
        text += f" ({unit.text(found.seen_from)})"
    return Cell(text, marked=found.settled, value=found.mean)


def _named(study: Study, one: Snapshot, other: Snapshot) -> str:
    """Return the method, with its steps if only they differ."""
    method, step = one
    return f"{study.label(method)} at {step:,} steps" if method == other[0] else study.label(method)


def _share(found: Interval | None) -> Cell:
    if found is None:
        return Cell()
    return Cell(f"{100 * found.mean:.0f} [{100 * found.low:.0f}, {100 * found.high:.0f}]", value=found.mean)


def _means(study: Study, snapshots: Mapping[str, Snapshot], score: Score) -> dict[str, Cell]:
    cells = {}
    for key, snapshot in snapshots.items():
        means = {} if study.missing(*snapshot) else study.means(*snapshot, score.key)
        mean = sum(means.values()) / len(means) if means else float("nan")
        cells[key] = Cell(score.unit.text(mean) if means else NOTHING, value=mean)
    return cells


def _shown(study: Study) -> list[Score]:
    return [score for score in study.scores if score.key in SHOWN]
