"""Scores on disk: a row per picture and metric, and the record of what was scored and the costs of tuning."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from quantbooth.evaluation.rows import read_parquet
from quantbooth.runtime.errors import UserError
from quantbooth.store.documents import read_as
from quantbooth.store.files import require_name

__all__ = ["ABOUT", "Record", "read_measured", "read_record", "read_rows", "write_scores"]

ROWS = "rows.parquet"
EARLIER = "rows.csv"
"""The former format: a row per picture; only the record names the judges."""
RECORD = "record.json"
TEXTS = ("subject", "prompt", "kind", "file", "metric", "measured_with")
NUMBERS = ("step", "noise_seed", "value")
ABOUT = ("prompt", "kind", "noise_seed", "file")
"""Columns that identify a picture; all others are metrics."""


@dataclass(frozen=True)
class Record:
    """What a set of scores is about.

    Attributes:
        method: its name in tables.
        subject: the subject.
        quant: fp, w8, w4, ...
        seed: of the tuning run.
        step: optimizer steps at this snapshot; 0 is the untuned base.
        base: the base that generated the pictures.
        scorer: names of the encoder, locator and oracle.
        protocol: name of the protocol and number of seeds per prompt.
        costs: of tuning (samples seen, trained parameters, seconds, bytes), and errors on the photos by timestep bin.
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
    costs: Mapping[str, float | list[int] | list[float]]
    images: str
    run: str


def write_scores(
    folder: Path, record: Record, rows: Sequence[Mapping[str, Any]], measured_with: Mapping[str, str]
) -> None:
    """Write scores in long form: subject, step, picture, metric, value, and the judges of the metric.

    Each of `rows` is one picture's; a missing metric is left out, NaN is an undefined one.

    Raises:
        ValueError: naming a metric without judges.
    """
    metrics = dict.fromkeys(name for row in rows for name in row if name not in ABOUT)
    if unknown := [name for name in metrics if name not in measured_with]:
        raise ValueError(f"every metric needs a description of its judges, got none for {', '.join(unknown)}")
    of_all = {"subject": record.subject, "step": record.step}
    long = [
        of_all
        | {name: row[name] for name in ABOUT}
        | {"metric": name, "value": float(row[name]), "measured_with": measured_with[name]}
        for row in rows
        for name in metrics
        if name in row
    ]
    pd.DataFrame(long).to_parquet(folder / ROWS, engine="pyarrow", index=False)
    (folder / RECORD).write_text(json.dumps(asdict(record), indent=1))


def read_measured(folder: Path) -> pd.DataFrame:
    """Return the rows in long form, one per picture and metric; the former format is read too.

    Raises:
        UserError: when there are none, or their file is damaged.
    """
    path = folder / ROWS
    if (folder / EARLIER).is_file() and not path.is_file():
        return _earlier(folder)
    if not path.is_file():
        raise UserError(f"{folder} holds no {ROWS}; remove the folder and evaluate again")
    long = read_parquet(path, TEXTS, NUMBERS, undefined=["value"])
    if (twice := long.duplicated(["file", "metric"])).any():
        file, metric = long[twice].iloc[0][["file", "metric"]]
        raise UserError(f"{path} must have each metric of a picture once, found {metric} of {file} twice")
    return long


def read_rows(folder: Path) -> pd.DataFrame:
    """Return a row per picture and a column per metric; NaN where a picture does not have it."""
    long = read_measured(folder)
    pictures = long[list(ABOUT)].drop_duplicates()
    metrics = list(long["metric"].unique())
    values = long.pivot(index="file", columns="metric", values="value")[metrics]
    return pictures.join(values, on="file").reset_index(drop=True)


def read_record(folder: Path) -> Record:
    """Return what a set of scores is about.

    Raises:
        UserError: when the record is damaged, or names a folder out of the store.
    """
    record = read_as(Record, folder / RECORD)
    for key, path in (("images", record.images), ("run", record.run)):
        for part in path.split("/"):
            require_name(part, f"{folder / RECORD}: {key}")
    return record


def _earlier(folder: Path) -> pd.DataFrame:
    wide, record = pd.read_csv(folder / EARLIER), read_record(folder)
    metrics = [name for name in wide if name not in ABOUT]
    wide = wide.assign(subject=record.subject, step=record.step)
    long = wide.melt([*("subject", "step"), *ABOUT], metrics, var_name="metric", ignore_index=False)
    return long.sort_index(kind="stable").assign(measured_with=record.scorer).reset_index(drop=True)
