"""Writes table.md beside a steps.csv of `check`: python -m experiments.bench.gpu.table FOLDER"""

import csv
import sys
from collections import defaultdict
from pathlib import Path

from quantbooth.reporting.tables import markdown

__all__ = ["table"]

Row = dict[str, str]
REFERENCE = "lora_half"
HEADER = ("model", "batch", "method", "graph, ms", "no graph, ms", "to LoRA, graph", "to LoRA, no graph")
MEMORY = ("before, GB", "step, GB")


def table(rows: list[Row]) -> str:
    """Return a line for each method of a setting; `before` is the least that the method had before a step."""
    settings: dict[tuple[str, ...], dict[str, dict[bool, Row]]] = defaultdict(lambda: defaultdict(dict))
    before: dict[tuple[str, str], float] = {}
    for row in rows:
        if row["error"]:
            continue
        size = row["size"] + (f", {row['precision']}" if row["precision"] != "bf16" else "")
        size += ", checkpointing" if row["checkpointing"] == "True" else ""
        settings[size, row["batch"]][row["method"]][row["graph"] == "True"] = row
        held = before.get((row["size"], row["method"]), float("inf"))
        before[row["size"], row["method"]] = min(held, float(row["built_gb"]))
    lines = []
    for (size, batch), methods in settings.items():
        for method, kinds in methods.items():
            times = [_time(kinds, graph) for graph in (True, False)]
            other = [_time(methods.get(REFERENCE, {}), graph) for graph in (True, False)]
            any_row = next(iter(kinds.values()))
            steps = min(float(row["peak_gb"]) - float(row["built_gb"]) for row in kinds.values())
            lines.append(
                (
                    *(size, batch, method, *map(_shown, times)),
                    *(f"{a / b:.2f}" if a and b else "-" for a, b in zip(times, other, strict=True)),
                    *(f"{before[any_row['size'], method]:.2f}", f"{steps:.2f}"),
                )
            )
    return markdown([*HEADER, *MEMORY], lines)


def _time(kinds: dict[bool, Row], graph: bool) -> float | None:
    return float(kinds[graph]["ms"]) if graph in kinds else None


def _shown(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.1f}"


def main() -> None:
    folder = Path(sys.argv[1])
    with (folder / "steps.csv").open() as file:
        (folder / "table.md").write_text(table(list(csv.DictReader(file))))


if __name__ == "__main__":
    main()
