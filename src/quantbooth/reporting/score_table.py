"""The results table: methods by scores and costs, and the rows per picture behind the means."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from quantbooth.reporting.columns import COSTS, NOTHING, CostColumn, Unit
from quantbooth.reporting.inference import FEWEST, best, interval
from quantbooth.reporting.results import Cost
from quantbooth.reporting.study import Method, Study
from quantbooth.reporting.tables import INCOMPLETE, Cell, Column, Row, Table, activation_note

__all__ = ["caption", "picture_rows", "runs", "score_table"]

SCORED, COSTLY = "scores", "costs"
MOST_RUNS = 12
"""Most runs named below a table; more are in the column `runs` of its CSV."""
NAN = float("nan")


def score_table(study: Study, subject: str | None = None) -> Table:
    """Return one row per method at its last step, the untuned base first.

    Scores are means over subjects of subject means (over images, then seeds), with their 95 % bootstrap interval where
    there are several subjects. Costs are means over runs, peak memory the largest. Best scores are marked; `missing` is
    what a row lacks; such a row is not comparable with a complete one.

    Args:
        study: what is reported.
        subject: of this subject alone, with nothing marked and without costs.
    """
    methods = [method for method in study.methods if study.at(*study.last(method), subject)]
    winners = {} if subject else {score.key: best(study, score) for score in study.scores}
    rows = {method: _about(study, method) | _scores(study, method, winners, subject) for method in methods}
    columns = [Column("weights", "weights", SCORED), Column("subjects"), Column("seeds")]
    columns += [
        Column(s.key, s.header(), SCORED)
        for s in study.scores
        if any(rows[method][s.key].text != NOTHING for method in methods)
    ]
    if subject is None:
        columns.append(Column("steps", "steps", COSTLY))
        for cost in COSTS:
            title, cells = _costs(study, methods, cost)
            columns.append(Column(cost.key, title, COSTLY))
            rows = {method: rows[method] | {cost.key: cell} for method, cell in zip(methods, cells, strict=True)}
        columns += [Column("missing"), Column("runs"), Column("best")]
    lacking = {method: bool(study.lacking(method)) and subject is None for method in methods}
    made = [Row(study.label(method), rows[method], study.style(method), lacking[method]) for method in methods]
    return Table("method", tuple(columns), tuple(made), () if subject else _notes(study))


def runs(table: Table) -> dict[str, list[str]]:
    """Return the runs behind each row."""
    return {row.label: str(row.cells["runs"].value).split(", ") for row in table.rows}


def picture_rows(study: Study) -> pd.DataFrame:
    """Return every image's row with the setting it was made under."""
    columns = ("method", "subject", "quant", "seed", "step", "base", "scorer", "protocol", "run")
    parts = []
    for result in study.results:
        part = result.rows.copy()
        for place, name in enumerate(columns):
            part.insert(place, name, getattr(result, name))
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def caption(study: Study) -> str:
    """Return a caption: contents, base, scorer, and the limits of the numbers."""
    first = study.results[0]
    drawn = f"{len(first.rows)} images per subject, method and seed" + (
        f" ({first.protocol})" if first.protocol else ""
    )
    return (
        f"Base {first.base}; scorer {first.scorer}; {drawn}; subjects: {', '.join(study.subjects)}. "
        f"{_reliability(study)}"
    )


def named_runs(table: Table) -> str:
    """Return a line with the runs of each row, or where they are listed."""
    found = runs(table)
    if (count := sum(map(len, found.values()))) > MOST_RUNS:
        return f"Runs: {count}, listed by method in the column `runs` of `table.csv`."
    return "Runs: " + "; ".join(f"{label}: {', '.join(names)}" for label, names in found.items()) + "."


def _reliability(study: Study) -> str:
    subjects, seeds = len(study.subjects), len(study.seeds)
    averaged = "" if seeds == 1 else f" {seeds} seeds averaged within a subject."
    if subjects == 1:
        return f"{'A single run' if seeds == 1 else 'One subject'}: no interval, and no proof.{averaged}"
    return (
        f"Means per subject, then over {subjects} subjects; ± is the wider half of the 95 % bootstrap interval over "
        f"subjects{', too narrow for so few' if subjects < FEWEST else ''}.{averaged}"
    )


def _notes(study: Study) -> tuple[str, ...]:
    lines = [
        f"{INCOMPLETE} {study.label(method)} lacks {', '.join(lacks)}: its means are over what it has; compare with "
        "no other row."
        for method in study.methods
        if (lacks := study.lacking(method))
    ]
    note = activation_note(method.quant for method in study.methods)
    return tuple(lines if note is None else [*lines, note])


def _about(study: Study, method: Method) -> dict[str, Cell]:
    step = study.last(method)[1]
    found = study.at(method, step)
    values: dict[str, object] = {
        "weights": method.quant,
        "subjects": len({result.subject for result in found}),
        "seeds": len({result.seed for result in found}),
        "missing": "; ".join(study.lacking(method)),
        "runs": ", ".join(dict.fromkeys(result.run for result in found)),
    }
    cells = {key: Cell(str(value), value=value) for key, value in values.items()}
    return cells | {"steps": Cell(f"{step:,}" if step else NOTHING, value=step)}


def _scores(
    study: Study, method: Method, winners: Mapping[str, tuple[Method, ...]], subject: str | None = None
) -> dict[str, Cell]:
    cells = {}
    for score in study.scores:
        means = study.means(*study.last(method), score.key, subject)
        mean, spread = float(np.mean(list(means.values()))) if means else NAN, interval(means)
        ends = (NAN, NAN) if spread is None else (spread.low, spread.high)
        half = "" if spread is None else score.unit.text(max(mean - spread.low, spread.high - mean))
        cells[score.key] = Cell(score.unit.text(mean), half, method in winners.get(score.key, ()), mean, ends)
    marked = " ".join(key for key, methods in winners.items() if method in methods)
    return cells | {"best": Cell(marked, value=marked)}


def _costs(study: Study, methods: list[Method], cost: CostColumn) -> tuple[str, list[Cell]]:
    """Return the title, empty where no row has this cost, and the cells."""
    found = [_cost(cost.key, [result.costs for result in study.at(*study.last(method))]) for method in methods]
    numbers = [value for value in found if isinstance(value, float)]
    if len(numbers) < len(found):
        cells = [Cell(value or NOTHING, value=value) for value in found if isinstance(value, str)]
        return cost.title if any(found) else "", cells
    unit = Unit("", 1, 0) if np.isnan(numbers).all() else cost.unit(numbers)
    title = "" if np.isnan(numbers).all() else cost.header(unit)
    return title, [Cell(unit.text(value), value=value) for value in numbers]


def _cost(key: str, costs: Iterable[Mapping[str, Cost]]) -> float | str:
    known: list[Any] = [cost[key] for cost in costs if key in cost]
    if key == "samples_per_expert":
        shares = [np.atleast_1d(np.asarray(value, dtype=float)) for value in known]
        counted = [share for share in shares if len(share) == max(map(len, shares))]  # earlier rows have the mean alone
        return "/".join(f"{share:,.0f}" for share in np.mean(counted, axis=0)) if known else ""
    if not known:
        return NAN
    values = np.asarray(known, dtype=float)
    return float(values.max() if key == "peak_memory_bytes" else values.mean())
