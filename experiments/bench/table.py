"""`results.md`: the rows as tables, with ratios to each peer. `python -m experiments.bench.table` makes it anew."""

import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from experiments.bench.cases import MODULES
from experiments.bench.ratios import found, over_floor, peak_ratio, step_ratio
from experiments.bench.results import Row, read, write
from experiments.bench.targets import TARGETS
from quantbooth.reporting.tables import markdown
from quantbooth.runtime.errors import UserError

__all__ = ["document"]

NONE = "—"
METHODS = list(MODULES)
PEERS = ("float", "lora", "qlora", "qlora_packed", "peqa_plain")
FIGURES = {
    "peak GB": ("peak_rss_gb", ".2f"),
    "build GB": ("build_rss_gb", ".2f"),
    "libraries GB": ("import_rss_gb", ".2f"),
    "CUDA GB": ("cuda_peak_gb", ".2f"),
    "kept GB": ("kept_gb", ".2f"),
    "forward s": ("forward_s", ".2f"),
    "backward s": ("backward_s", ".2f"),
    "optimizer s": ("optimizer_s", ".2f"),
    "step s": ("step_s", ".2f"),
    "learns": ("trainable", ",d"),
    "file MB": ("file_mb", ".2f"),
    "base file MB": ("base_file_mb", ".1f"),
}
LEAD = """# Memory and speed, measured

Made by `make bench`; do not edit. How to read it, and what it does not show: [README.md](README.md).
"""


def document(rows: list[Row]) -> str:
    """The whole page: targets first, then each setting with its figures and ratios."""
    parts = [LEAD, _targets(rows)]
    for setting, members in groupby(sorted(rows, key=_order), key=_setting):
        parts.append(_section(setting, list(members)))
    return "\n".join(parts)


def _setting(row: Row) -> tuple[str, int, bool, str]:
    return row["model"], row["latents"], row["checkpointing"], row["device"]


def _order(row: Row) -> tuple[object, ...]:
    return *_setting(row), row["batch"], METHODS.index(row["method"]), -(row["bits"] or 0)


def _targets(rows: list[Row]) -> str:
    lines = []
    for target in TARGETS:
        value = target.measure(rows)
        met = "not measured" if value is None else "yes" if value <= target.limit else "no"
        lines.append([target.says, f"{target.limit:g}", _said(value, ".3g"), met])
    table = markdown(["W4, SD 1.5, 32x32 latents, batch 1", "at most", "measured", "met"], lines)
    return f"## What was aimed at\n\n{table}\n"


def _section(setting: tuple[str, int, bool, str], rows: list[Row]) -> str:
    model, latents, checkpointing, device = setting
    title = f"## {model}, {latents}x{latents} latents, {'with' if checkpointing else 'without'} checkpointing, {device}"
    tables = [title, _figures(rows), _ratios(rows), _batches(rows), *_absent(rows), *_sources(rows)]
    return "\n\n".join(part for part in tables if part) + "\n"


def _figures(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        if row["reason"] is None:
            figures = [_said(row[key], form) for key, form in FIGURES.values()]
            lines.append([_method(row), str(row["batch"]), _said(row["sets"], "d"), *figures])
    return markdown(["method", "batch", "sets", *FIGURES], lines) if lines else ""


def _ratios(rows: list[Row]) -> str:
    """Ours to each peer; the floor of memory is that of the row itself, the floor of time a row of its own."""
    peaks_head = [*(f"peak x {peer}" for peer in PEERS), "peak less libraries x floor"]
    head = ["one sample", *peaks_head, *(f"step x {peer}" for peer in (*PEERS, "floor"))]
    lines = []
    for row in rows:
        if row["method"] == "quantbooth" and row["batch"] == 1 and row["reason"] is None:
            peers = [found(rows, method=method) for method in (*PEERS, "floor")]
            peaks = [*(peak_ratio(row, peer) for peer in peers[:-1]), over_floor(row)]
            values = [*peaks, *(step_ratio(row, peer) for peer in peers)]
            lines.append([_method(row), *(_said(value, ".2f") for value in values)])
    return markdown(head, lines) if lines else ""


def _batches(rows: list[Row]) -> str:
    """Sets mixed in a batch, against the same batch with one set and against as many steps of one sample."""
    head = ["sets mixed in a batch", "batch", "step x one set", "step x steps of batch 1", "peak x one set"]
    lines = []
    single = found(rows, method="quantbooth", bits=4, batch=1)
    for row in rows:
        if row["method"].startswith("quantbooth_") and row["reason"] is None:
            same = found(rows, method="quantbooth", bits=row["bits"], batch=row["batch"], sets=1)
            apart = step_ratio(row, single)
            values = [step_ratio(row, same), apart and apart / row["batch"], peak_ratio(row, same)]
            lines.append([_method(row), str(row["batch"]), *(_said(value, ".2f") for value in values)])
    return markdown(head, lines) if lines else ""


def _absent(rows: list[Row]) -> list[str]:
    lines = [f"- {_method(row)}, batch {row['batch']}: {row['reason']}" for row in rows if row["reason"] is not None]
    return ["Not measured:\n\n" + "\n".join(lines)] if lines else []


def _sources(rows: Iterable[Row]) -> list[str]:
    """Commit, machine and number of timed steps; more than one line where rows are of several."""
    lines = []
    for row in rows:
        machine = ", ".join(f"{name} {value}" for name, value in row["machine"].items() if value is not None)
        if row["reason"] is None:
            lines.append(f"Commit {row['commit']}; {machine}; {len(row['steps_s'])} timed steps.")
    return list(dict.fromkeys(lines))


def _method(row: Row) -> str:
    return row["method"] + ("" if row["bits"] is None else f" W{row['bits']}")


def _said(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)


def main() -> int:
    """Write the page beside the rows; the exit code."""
    file = Path(__file__).with_name("results.json")
    try:
        write(file.with_suffix(".md"), document(read(file)))
    except UserError as error:
        sys.stderr.write(f"bench: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
