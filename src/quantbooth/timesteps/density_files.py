"""Densities of timesteps in files: JSON [w_0, w_1, ...] or {"0": w_0, ...}, or CSV with the columns timestep,weight."""

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quantbooth.runtime.errors import UserError
from quantbooth.store.documents import read_json
from quantbooth.store.files import require_plain

__all__ = ["read_weights"]

COLUMNS = ["timestep", "weight"]


def read_weights(file: Path) -> tuple[float, ...]:
    """Return the weights of the timesteps 0, 1, ... of a JSON or CSV file.

    Raises:
        UserError: when it is another kind of file, a timestep is missing or there twice, a weight is negative or no
            finite number, or all are 0.
    """
    if file.suffix.lower() not in (".json", ".csv"):
        raise UserError(f"timesteps.path must be a .json or .csv file, got {file}")
    require_plain(file, "the weights of timesteps")
    rows = _of_csv(file) if file.suffix.lower() == ".csv" else _of_json(read_json(file), file)
    found: dict[int, float] = {}
    for key, value in rows:
        step, weight = _number(key, file, "a timestep"), _number(value, file, "a weight")
        if step != int(step) or step < 0 or step in found:
            raise UserError(f"{file} must have each timestep once, a whole number from 0, found {key}")
        if weight < 0:
            raise UserError(f"{file} must have weights of 0 or more, found {value} of timestep {key}")
        found[int(step)] = weight
    if missing := sorted(set(range(max(found, default=-1) + 1)) - found.keys()):
        raise UserError(f"{file} must have a weight for every timestep, found none for {missing[0]}")
    if not any(found.values()):
        raise UserError(f"{file} must have a weight above 0, found only zeros")
    return tuple(found[step] for step in sorted(found))


def _of_json(values: Any, file: Path) -> Iterable[tuple[object, object]]:
    if isinstance(values, list):
        return enumerate(values)
    if isinstance(values, dict):
        return values.items()
    raise UserError(f"{file} must hold a list of weights, or timesteps and weights, found a {type(values).__name__}")


def _of_csv(file: Path) -> Iterable[tuple[object, object]]:
    try:
        text = file.read_text(encoding="utf-8-sig")  # spreadsheets begin a file with a mark
        head, *rows = [row for row in csv.reader(text.splitlines()) if row] or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} must be CSV in UTF-8, found: {error}") from error
    if head != COLUMNS or (wrong := [row for row in rows if len(row) != len(COLUMNS)]):
        found = ",".join(head if head != COLUMNS else wrong[0])
        raise UserError(f"{file} must have the columns {','.join(COLUMNS)}, found {found}")
    return [(step, weight) for step, weight in rows]


def _number(value: object, file: Path, what: str) -> float:
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        found = float(value)
        if not math.isfinite(found):
            raise ValueError
    except (ValueError, OverflowError) as error:
        raise UserError(f"{file} must have numbers, found {value!r:.60} as {what}") from error
    return found
