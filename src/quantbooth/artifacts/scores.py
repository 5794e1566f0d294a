"""Scores on disk: one row per picture, and the record of what they were measured with and what tuning cost."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

__all__ = ["Record", "read_record", "read_rows", "write_scores"]

ROWS = "rows.csv"
RECORD = "record.json"


@dataclass(frozen=True)
class Record:
    """What one set of scores is about.

    Attributes:
        method: its name in tables.
        subject: whose fidelity was measured.
        quant: fp, w8, w4, ...
        seed: of the tuning run.
        step: optimizer steps at this snapshot; 0 is the untuned base.
        base: which base made the pictures.
        scorer: names of the encoder, locator and oracle.
        protocol: name of the protocol and number of seeds per prompt.
        costs: what tuning cost (samples seen, trained numbers, seconds, bytes).
        images: folder of the image set, relative to the store.
        run: name of the tuning artifact.
    """

    method: str
    subject: str
    quant: str
    seed: int
    step: int
    base: str
    scorer: str
    protocol: str
    costs: dict[str, float]
    images: str
    run: str


def write_scores(folder: Path, record: Record, rows: list[dict[str, Any]]) -> None:
    pd.DataFrame(rows).to_csv(folder / ROWS, index=False)
    (folder / RECORD).write_text(json.dumps(asdict(record), indent=1))


def read_rows(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / ROWS)


def read_record(folder: Path) -> Record:
    return Record(**json.loads((folder / RECORD).read_text()))
