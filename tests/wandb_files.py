"""What W&B wrote of offline runs."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, WHOLE, LAST = 32768, 1, 4
SECONDS = 60


def records(data: bytes) -> Iterator[bytes]:
    """Yield the records of an offline run: chunks of (checksum, length, kind) in blocks of 32 KiB, after 7 bytes."""
    place, record = 7, b""
    while place + 7 <= len(data):
        left = BLOCK - place % BLOCK
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (WHOLE, LAST):
            yield record
            record = b""


def wandb_records(run: Path) -> list[Record]:
    """Return all records of an offline run."""
    (file,) = run.glob("run-*.wandb")
    found = []
    for data in records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        found.append(record)
    return found


def finished(run: Path) -> list[Record]:
    """Return all records of an offline run that has ended, once W&B's own process has written them."""
    until, read = time.monotonic() + SECONDS, wandb_records(run)
    while not any(record.HasField("exit") for record in read) and time.monotonic() < until:
        time.sleep(0.1)
        read = wandb_records(run)
    return read


def wandb_runs(logs: Path) -> dict[str, list[Record]]:
    """Return the records of each offline run in a folder of logs by its id."""
    folders = sorted((logs / "wandb").glob("offline-run-*"))
    return {run.name.split("-", 3)[3]: finished(run) for run in folders}


def history(read: list[Record]) -> list[dict[str, Any]]:
    """Return the logged rows of a run."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in read
        if record.HasField("history")
    ]


def summary(read: list[Record]) -> dict[str, Any]:
    """Return the summary of a run: what was logged last, and what was set."""
    found: dict[str, Any] = {}
    for record in read:
        rows = record.history.item if record.HasField("history") else record.summary.update
        found |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in rows}
    return found


def wandb_steps(run: Path) -> list[int]:
    """Return the steps at which an offline run that has ended has a loss."""
    return [int(row["trainer/global_step"]) for row in history(finished(run)) if "tune/loss" in row]
