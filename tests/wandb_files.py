"""What W&B wrote of an offline run."""

import struct
from collections.abc import Iterator
from pathlib import Path

from wandb.proto import wandb_internal_pb2

BLOCK, WHOLE, LAST = 32768, 1, 4


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


def wandb_steps(run: Path) -> list[int]:
    """Return the steps at which an offline run has a loss."""
    steps = []
    (file,) = run.glob("run-*.wandb")
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        if "tune/loss" in items:
            steps.append(int(items["trainer/global_step"]))
    return steps


def wandb_records(run: Path) -> list[wandb_internal_pb2.Record]:
    """Return all records of an offline run."""
    (file,) = run.glob("run-*.wandb")
    found = []
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        found.append(record)
    return found
