"""The results table: methods by scores and costs, as numbers, Markdown, CSV, LaTeX and on the terminal.

The table for a paper: LaTeX with booktabs, marked cells in bold, footnotes below.

The results table: methods by scores and costs, as numbers, Markdown, CSV and on the terminal.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quantbooth.reporting.claims import FEWEST, best, interval, last
from quantbooth.reporting.columns import COSTS
from quantbooth.reporting.layout import Cell, Written, cost_sheet, footnotes, score_sheet, whole_sheet
from quantbooth.reporting.results import Cost, Result
from quantbooth.reporting.study import Arm, Study

__all__ = ["as_csv", "as_markdown", "caption", "latex", "print_table", "rows", "table"]

SPECIAL = {
    "\\": r"\textbackslash{}",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "†": r"$^\dagger$",
    "×": r"$\times$",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
}
"""What plain LaTeX reads otherwise, or does not know without further packages."""


def latex(sheet: Written, first: str, notes: Sequence[str] = ()) -> str:
    r"""The sheet as a tabular for `\input`; needs the package booktabs, and says so in its first line.

    `first` is the title above the row labels; `notes` are lines below the table.
    """
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'r' * len(sheet.titles)}}}",
        r"\toprule",
        _row([_escaped(title) for title in (first, *sheet.titles)]),
        r"\midrule",
        *(_row([_escaped(label), *map(_cell, cells)]) for label, cells in sheet.rows()),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    lines += [rf"\par\smallskip\noindent\footnotesize {_escaped(note)}" for note in notes]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell) -> str:
    return rf"\textbf{{{_escaped(cell.text)}}}" if cell.best else _escaped(cell.text)


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(sign, sign) for sign in text)


LABEL = "method"
MOST_RUNS = 12
"""Runs that are named below a table; of more, the column `runs` of its CSV tells."""


def table(results: Sequence[Result]) -> pd.DataFrame:
    """One row per method at its last step, the untuned base first; indexed by the method's name.

    Scores are means over subjects of subject means (over images, then seeds), with `_low` and `_high` of their 95 %
    bootstrap interval, NaN for a single subject. Costs are means over runs, peak memory the largest. `best` names the
    scores at which a method may be called best, `missing` what it lacks: compare no such row with a complete one.

    Raises:
        UserError: the results do not compare.
    """
    study = Study(tuple(results))
    frame = pd.DataFrame([_tables_row(study, arm) for arm in study.arms]).set_index(LABEL)
    winners = {score.key: [study.label(arm) for arm in best(study, score)] for score in study.scores}
    frame["best"] = [" ".join(key for key, labels in winners.items() if label in labels) for label in frame.index]
    return frame


def rows(results: Sequence[Result]) -> pd.DataFrame:
    """Every image's row with the setting it was made under: what all means are views of."""
    columns = ("method", "subject", "quant", "seed", "step", "base", "scorer", "protocol", "run")
    parts = []
    for result in Study(tuple(results)).results:
        part = result.rows.copy()
        for place, name in enumerate(columns):
            part.insert(place, name, getattr(result, name))
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def caption(results: Sequence[Result]) -> str:
    """What a table of these results shows, by which base and scorer, and how far its numbers carry."""
    study = Study(tuple(results))
    first = study.results[0]
    images = len(first.rows)
    drawn = f"{images} images per subject, method and seed" + (f" ({first.protocol})" if first.protocol else "")
    return (
        f"Base {first.base}; scorer {first.scorer}; {drawn}; subjects: {', '.join(study.subjects)}. "
        f"{_reliability(study)}"
    )


def as_markdown(frame: pd.DataFrame, caption: str) -> str:
    """Caption, table, footnotes, and the runs behind each row or where they are named."""
    sheet = whole_sheet(frame)
    lines = [caption, "", _line([LABEL, *sheet.titles]), _line(["---", *["---:"] * len(sheet.titles)])]
    lines += [_line([label, *(_marked(cell.text, cell.best) for cell in row)]) for label, row in sheet.rows()]
    for note in footnotes(frame):
        lines += ["", note]
    return "\n".join([*lines, "", _runs(frame), ""])


def _runs(frame: pd.DataFrame) -> str:
    count = sum(len(row.split(", ")) for row in frame["runs"])
    if count > MOST_RUNS:
        return f"Runs: {count}, named by method in the column `runs` of `table.csv` beside this table."
    return "Runs: " + "; ".join(f"{label}: {row['runs']}" for label, row in frame.iterrows()) + "."


def as_csv(frame: pd.DataFrame) -> str:
    """The numbers unrounded, one line per method."""
    return frame.to_csv(lineterminator="\n")


def print_table(frame: pd.DataFrame, console: Console | None = None) -> None:
    """Scores, then costs, on the terminal."""
    console = console or Console()
    for sheet in (score_sheet(frame), cost_sheet(frame)):
        console.print(_rich(sheet, console.width))
    for note in footnotes(frame):
        console.print(Text(note, style="yellow"))


def _tables_row(study: Study, arm: Arm) -> dict[str, object]:
    step = last(study, arm)
    found = study.at(arm, step)
    row: dict[str, object] = {
        LABEL: study.label(arm),
        "weights": arm.quant,
        "steps": step,
        "subjects": len({result.subject for result in found}),
        "seeds": len({result.seed for result in found}),
    }
    for score in study.scores:
        means = study.means(arm, step, score.key)
        spread = interval(means)
        row[score.key] = float(np.mean(list(means.values()))) if means else float("nan")
        row[f"{score.key}_low"], row[f"{score.key}_high"] = (
            (spread.low, spread.high) if spread else (float("nan"), float("nan"))
        )
    row |= {column.key: _cost(column.key, [result.costs for result in found]) for column in COSTS}
    row["missing"] = "; ".join(study.lacking(arm))
    row["runs"] = ", ".join(dict.fromkeys(result.run for result in found))
    return row


def _cost(key: str, costs: Iterable[Mapping[str, Cost]]) -> float | str:
    known = [cost[key] for cost in costs if key in cost]
    if key == "samples_per_expert":
        shares = np.array([np.atleast_1d(np.asarray(value, dtype=float)) for value in known])
        return "/".join(f"{share:,.0f}" for share in shares.mean(axis=0)) if known else ""
    if not known:
        return float("nan")
    values = np.asarray(known, dtype=float)
    return float(values.max() if key == "peak_memory_bytes" else values.mean())


def _reliability(study: Study) -> str:
    subjects, seeds = len(study.subjects), len(study.seeds)
    averaged = "" if seeds == 1 else f" {seeds} seeds averaged within a subject."
    if subjects == 1:
        return f"{'A single run' if seeds == 1 else 'One subject'}: no interval, and no proof.{averaged}"
    return (
        f"Means per subject, then over {subjects} subjects; ± is the wider half of the 95 % bootstrap interval over "
        f"subjects{', too narrow for so few' if subjects < FEWEST else ''}.{averaged}"
    )


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _marked(text: str, best: bool) -> str:
    return f"**{text}**" if best else text


def _rich(sheet: Written, width: int) -> Table:
    """Where the width is short headers wrap and a spread takes the next line; no number is ever cut."""
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    made.add_column(LABEL, no_wrap=True)
    columns = [
        [title, *(cell.text for cell in cells)] for title, cells in zip(sheet.titles, _turned(sheet), strict=True)
    ]
    wide = sum(1 + max(map(len, texts)) for texts in columns) + max(map(len, sheet.labels)) > width
    for texts in columns:
        made.add_column(texts[0], justify="right", width=max(map(len, " ".join(texts).split())) if wide else None)
    for label, row in sheet.rows():
        made.add_row(label, *(Text(cell.text, style="bold" if cell.best else "") for cell in row))
    return made


def _turned(sheet: Written) -> Iterable[tuple[Cell, ...]]:
    """The cells by column."""
    return zip(*sheet.cells, strict=True)
