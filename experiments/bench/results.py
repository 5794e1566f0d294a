"""Rows of figures in `results.json`: one for each case, the newest, written whole or not at all."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from experiments.bench.cases import Case
from quantbooth.runtime.errors import UserError

__all__ = ["Row", "is_done", "merged", "missing_row", "read", "row_of", "to_json", "write"]

Row = dict[str, Any]
FIGURES = (
    "peak_rss_gb",
    "build_rss_gb",
    "import_rss_gb",
    "cuda_peak_gb",
    "kept_gb",
    "forward_s",
    "backward_s",
    "optimizer_s",
    "step_s",
    "trainable",
    "file_mb",
    "base_file_mb",
)


def row_of(case: Case, built: Row, steps: list[Row], kept: Row, warm_up: int) -> Row:
    """The row of a case: seconds are medians of the steps after the warm-up, the peak is that of all steps."""
    timed = [{**step, "step": step["forward"] + step["backward"] + step["optimizer"]} for step in steps[warm_up:]]
    seconds = {
        f"{name}_s": median(step[name] for step in timed) for name in ("forward", "backward", "optimizer", "step")
    }
    peaks = {
        name: None if steps[0][name] is None else max(step[name] for step in steps)
        for name in ("peak_rss_gb", "cuda_peak_gb")
    }
    figures = {**built, **peaks, **kept, **seconds}
    each = [step["step"] for step in timed]
    return {**case.key, **{name: figures[name] for name in FIGURES}, "steps_s": each, "reason": None}


def missing_row(case: Case, reason: str) -> Row:
    """The row of a case that could not be measured: no figure, and why."""
    return {**case.key, **dict.fromkeys(FIGURES), "steps_s": [], "reason": reason}


def read(file: Path) -> list[Row]:
    """All rows; none when there is no file yet.

    Raises:
        UserError: when the file is damaged.
    """
    if not file.exists():
        return []
    try:
        rows: list[Row] = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} must be a list of rows in JSON; mend or remove it: {error}") from error
    return rows


def to_json(rows: Iterable[Row]) -> str:
    """Rows as a JSON list, a line each."""
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"


def write(file: Path, text: str) -> None:
    """Replace a file in one move."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(text)
    os.replace(partial, file)


def merged(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """The old rows, each replaced by the new one of the same case; further new ones after them."""
    rows = {Case.of(row): row for row in old}
    rows.update({Case.of(row): row for row in new})
    return list(rows.values())


def is_done(case: Case, rows: Iterable[Row], commit: str, machine: Row) -> bool:
    """True when the case has figures of this commit on this machine. A dirty commit is never the same again."""
    return not commit.endswith("-dirty") and any(
        Case.of(row) == case and row["reason"] is None and (row["commit"], row["machine"]) == (commit, machine)
        for row in rows
    )
