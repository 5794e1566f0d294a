"""Artifacts of the store in W&B: what a run used, what it made, and from what; their files stay, or are uploaded."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

__all__ = ["MODES", "Item", "log_items", "log_page"]

MODES = ("references", "files", "none")
"""Of an artifact: small files and the place of its folder, all files, or nothing."""
LONGEST = 128
PLACE = "store"
"""The name of the reference to the folder."""


@dataclass(frozen=True)
class Item:
    """A finished artifact of the store.

    Attributes:
        name: of its folder.
        kind: such as scale_sets.
        folder: its files.
        about: fingerprint, and those of what it was made from.
        small: files that are uploaded in any case.
        used: whether the run reads it and another one made it.
    """

    name: str
    kind: str
    folder: Path
    about: Mapping[str, Any]
    small: Sequence[Path] = ()
    used: bool = False


def log_items(logger: WandbLogger, items: Iterable[Item], mode: str) -> None:
    """Log artifacts to a run, as inputs or outputs; W&B takes one that it has as the same version."""
    import wandb  # noqa: PLC0415  # optional: the extra [wandb]

    run = logger.experiment
    for item in items if mode != "none" else ():
        made = wandb.Artifact(_named(item.name), type=item.kind, metadata=dict(item.about))
        if mode == "files":
            made.add_dir(str(item.folder))
        else:
            for file in item.small:
                made.add_file(str(file))
            made.add_reference(item.folder.absolute().as_uri(), name=PLACE, checksum=False)
        if item.used:  # use_artifact does this, and refuses to offline, where wandb sync does it later
            run._log_artifact(made, is_user_created=True, use_after_commit=True)
        else:
            run.log_artifact(made)


def log_page(logger: WandbLogger, files: Sequence[Path], mode: str) -> None:
    """Log a report: its page and table to look at, and all files as an artifact."""
    import wandb  # noqa: PLC0415  # optional: the extra [wandb]

    run, by_name = logger.experiment, {file.name: file for file in files}
    if (page := by_name.get("index.html")) is not None:
        run.log({"report/page": wandb.Html(page.read_text(encoding="utf-8"), inject=False)})
    if (table := by_name.get("table.csv")) is not None:
        columns, *rows = _read(table)
        run.log({"report/table": wandb.Table(columns=columns, data=rows, allow_mixed_types=True)})
    if mode != "none":
        artifact = wandb.Artifact("report", type="report", description="the page, tables and plots of a report")
        for file in files:
            artifact.add_file(str(file))
        run.log_artifact(artifact)


def _read(table: Path) -> list[list[Any]]:
    """Return the rows of a table, numbers as numbers, empty cells as None."""
    with table.open(newline="", encoding="utf-8") as stream:
        return [[_value(cell) for cell in row] for row in csv.reader(stream)]


def _value(cell: str) -> float | str | None:
    try:
        return float(cell)
    except ValueError:
        return cell or None


def _named(name: str) -> str:
    return re.sub(r"[^\w.-]", "-", name)[-LONGEST:]
