"""Curves in metrics.csv without what depends on the machine."""

import csv
from pathlib import Path

__all__ = ["lasting"]

OF_THE_MACHINE = ("tune/seconds", "tune/seconds_per_step", "tune/peak_memory_bytes")


def lasting(file: Path) -> list[dict[str, str]]:
    """Return the values of each row that the same tuning has again."""
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [{name: value for name, value in row.items() if value and name not in OF_THE_MACHINE} for row in rows]
