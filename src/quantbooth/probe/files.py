"""A probe on disk: three tables of rows, and the record of the probe."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from quantbooth.evaluation.rows import read_csv
from quantbooth.store.documents import read_as
from quantbooth.store.manifest import open_artifact

__all__ = ["KIND", "Probe", "ProbeRecord", "read_probe", "write_probe"]

KIND = "probe"
RECORD = "record.json"
TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...], str | None]] = {
    "swaps": (("attribute",), ("pair", "t", "first", "second"), None),
    "forecasts": ((), ("question", "t", "distance"), "change"),
    "worth": ((), ("question", "t", "with_text", "without"), None),
}
"""Each table's columns of texts and of numbers; the last step has no change."""


@dataclass(frozen=True)
class ProbeRecord:
    """What was probed.

    Attributes:
        base: name of the base.
        quant: fp, w8, w4, ...
        timesteps: T.
        pairs: number of swapped prompt pairs.
        questions: name of the prompts.
        seed: of pairs and prompts.
        sampler: settings of the sampler.
        scorer: names of encoder, locator and oracle.
        zones: the zones in the base's configuration, name to [start, stop].
    """

    base: str
    quant: str
    timesteps: int
    pairs: int
    questions: str
    seed: int
    sampler: str
    scorer: str
    zones: dict[str, list[int]]


@dataclass(frozen=True, eq=False)
class Probe:
    """A finished probe: the rows of `Probes.prompt_swaps`, `x0_predictions` and `text_gain`."""

    record: ProbeRecord
    run: str
    swaps: pd.DataFrame
    forecasts: pd.DataFrame
    worth: pd.DataFrame


def write_probe(folder: Path, record: ProbeRecord, **rows: list[dict[str, Any]]) -> None:
    """Write the record and one CSV per table."""
    (folder / RECORD).write_text(json.dumps(asdict(record), indent=1))
    for name in TABLES:
        (folder / f"{name}.csv").write_text(pd.DataFrame(rows[name]).to_csv(index=False, lineterminator="\n"))


def read_probe(folder: Path) -> Probe:
    """Return the inverse of :func:`write_probe`.

    Raises:
        UserError: when the folder is not a finished probe, naming the file and key that does not fit.
    """
    manifest, record = open_artifact(folder, KIND), read_as(ProbeRecord, folder / RECORD)
    tables = {name: read_csv(folder / f"{name}.csv", *columns) for name, columns in TABLES.items()}
    return Probe(record, manifest.name, **tables)
