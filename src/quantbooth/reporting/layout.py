"""A table as it is written: columns with units, numbers with spreads, footnotes, Markdown.

What tables say of settings whose activations are quantized: that those integers are simulated.

A table in Markdown: the first column to the left where it holds names, numbers to the right.

The table as it is written: columns with units, numbers with spreads, marks and footnotes, the same everywhere.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from quantbooth.reporting.columns import COSTS, NOTHING, SCORES, CostColumn, Score

__all__ = [
    "Cell",
    "INCOMPLETE",
    "Written",
    "cost_sheet",
    "footnotes",
    "markdown",
    "score_sheet",
    "simulated",
    "whole_sheet",
]


def simulated(quants: Iterable[str]) -> str | None:
    """A sentence that names them; None where the activations of all are float.

    Args:
        quants: names of settings, which end in a8, a6, ... where activations have such bits.
    """
    named = list(dict.fromkeys(quant for quant in quants if re.search(r"a\d+$", quant)))
    if not named:
        return None
    return (
        f"{', '.join(named)} - activations: simulated integers, whole numbers held as floats, so neither speed nor "
        "memory of an integer product is shown; the codes of weights are packed."
    )


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The lines of the table; cells are texts already."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


INCOMPLETE = "†"


@dataclass(frozen=True)
class Cell:
    """One written number."""

    value: str
    spread: str = ""
    best: bool = False

    @property
    def text(self) -> str:
        """Value and spread in one line."""
        return f"{self.value} ±{self.spread}" if self.spread else self.value


@dataclass(frozen=True)
class Written:
    """Titles with units, row labels, and the cells of each row."""

    titles: tuple[str, ...]
    labels: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]

    def rows(self) -> Iterator[tuple[str, tuple[Cell, ...]]]:
        """Label and cells of each row."""
        return zip(self.labels, self.cells, strict=True)


def score_sheet(frame: pd.DataFrame) -> Written:
    """The scores of `tables.table`; a score that no row has is left out."""
    return _sheet(frame, _weights(frame) | _score_columns(frame))


def cost_sheet(frame: pd.DataFrame) -> Written:
    """The costs; a cost that no row has is left out."""
    return _sheet(frame, _cost_columns(frame))


def whole_sheet(frame: pd.DataFrame) -> Written:
    """Scores, then costs."""
    return _sheet(frame, _weights(frame) | _score_columns(frame) | _cost_columns(frame))


def footnotes(frame: pd.DataFrame) -> list[str]:
    """One line for each row that lacks subjects or seeds, and one for simulated activations."""
    incomplete = [
        f"{INCOMPLETE} {label} lacks {lacks}: its means are over what it has; compare them with no other row."
        for label, lacks in frame["missing"].items()
        if lacks
    ]
    note = simulated(frame["weights"])
    return incomplete if note is None else [*incomplete, note]


def _sheet(frame: pd.DataFrame, columns: dict[str, list[Cell]]) -> Written:
    labels = [f"{label} {INCOMPLETE}" if lacks else str(label) for label, lacks in frame["missing"].items()]
    return Written(tuple(columns), tuple(labels), tuple(zip(*columns.values(), strict=True)))


def _weights(frame: pd.DataFrame) -> dict[str, list[Cell]]:
    return {"weights": [Cell(str(quant)) for quant in frame["weights"]]}


def _score_columns(frame: pd.DataFrame) -> dict[str, list[Cell]]:
    known = (score for score in SCORES if score.key in frame and frame[score.key].notna().any())
    return {score.header(): _scores(frame, score) for score in known}


def _cost_columns(frame: pd.DataFrame) -> dict[str, list[Cell]]:
    columns = {"steps": [Cell(f"{step:,}" if step else NOTHING) for step in frame["steps"]]}
    for cost in COSTS:
        columns |= _costs(frame, cost)
    return columns


def _scores(frame: pd.DataFrame, score: Score) -> list[Cell]:
    cells = []
    for _, row in frame.iterrows():
        mean, low, high = (float(row[score.key + end]) for end in ("", "_low", "_high"))
        spread = "" if np.isnan(low) else score.unit.text(max(mean - low, high - mean))
        cells.append(Cell(score.unit.text(mean), spread, score.key in row["best"].split()))
    return cells


def _costs(frame: pd.DataFrame, cost: CostColumn) -> dict[str, list[Cell]]:
    if cost.key == "samples_per_expert":
        parts = [str(value) for value in frame[cost.key]]
        return {cost.title: [Cell(part or NOTHING) for part in parts]} if any(parts) else {}
    values = [float(value) for value in frame[cost.key]]
    if np.isnan(values).all():
        return {}
    unit = cost.unit(values)
    return {cost.header(unit): [Cell(unit.text(value)) for value in values]}
