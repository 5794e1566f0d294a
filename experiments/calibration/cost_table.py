"""`costs.md`: the rows of `costs.json` as a table."""

from collections.abc import Callable, Iterable
from typing import Any

from quantbooth.reporting.tables import markdown

__all__ = ["document"]

Row = dict[str, Any]
HOUR, PUBLISHED_ITERATIONS, PUBLISHED_ITEMS = 3600, 20_000, 6_400
COLUMNS: dict[str, Callable[[Row], str]] = {
    "denoiser": lambda row: f"{row['case']['model']}, {row['weights'] / 1e6:,.1f} M weights",
    "blocks": lambda row: str(row["units"]),
    "latents": lambda row: "{0}x{0}".format(row["case"]["latents"]),
    "items": lambda row: str(row["case"]["items"]),
    "iterations x batch": lambda row: f"{row['case']['iterations']} x {row['case']['batch']}",
    "taping s": lambda row: f"{row['taping_s']:.1f}",
    "ms per block and item": lambda row: f"{1000 * row['taping_s'] / row['units'] / row['case']['items']:.2f}",
    "search of scales s": lambda row: f"{row['search_s']:.1f}",
    "learning s": lambda row: f"{row['learning_s']:.1f}",
    "ms per block and iteration": lambda row: f"{1000 * row['learning_s'] / row['units'] / _steps(row):.1f}",
    "peak GB": lambda row: f"{row['peak_gb']:.2f}",
    "without mapped files GB": lambda row: f"{row['anonymous_gb']:.2f}",
    "libraries GB": lambda row: f"{row['import_gb']:.2f}",
    "float base GB": lambda row: f"{row['float_gb']:.3f}",
    "largest block GB": lambda row: f"{row['largest_gb']:.4f}",
    "rest, x largest block": lambda row: f"{_rest(row) / row['largest_gb']:.1f}",
    "published budget, hours": lambda row: f"{published_hours(row):,.1f}",
}


def document(rows: Iterable[Row]) -> str:
    """One line for each case, small ones first."""
    ordered = sorted(rows, key=lambda row: (row["weights"], row["units"], row["case"]["items"]))
    return markdown(list(COLUMNS), [[cell(row) for cell in COLUMNS.values()] for row in ordered]) + "\n"


def published_hours(row: Row) -> float:
    """Hours for 20,000 iterations of every block at this batch, 6,400 items to tape, and one search of scales."""
    learning = row["learning_s"] / _steps(row) * PUBLISHED_ITERATIONS
    taping = row["taping_s"] / row["case"]["items"] * PUBLISHED_ITEMS
    return float(learning + taping + row["search_s"]) / HOUR


def _steps(row: Row) -> int:
    steps: int = row["case"]["iterations"]
    return steps


def _rest(row: Row) -> float:
    """Peak memory beside libraries and float base, in GB."""
    return float(row["peak_gb"] - row["import_gb"] - row["float_gb"])
