"""Unfinished tuning on disk: per run of experts the last state, and the snapshots of each subject.

    unfinished/<artifact>/run-0/checkpoint-000180-<checksum>.safetensors
                                step-000100.safetensors

A checkpoint has tensors, and a record as JSON in the file's metadata. It lies under the artifact's fingerprint, so
other settings never find it; its name has its checksum, so damage is found. Files appear by renaming.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from quantbooth.runtime.errors import UserError
from quantbooth.store.documents import checked, parsed_json
from quantbooth.store.files import checksum
from quantbooth.store.store import Draft
from quantbooth.tuning.files import read_snapshot, snapshot_path, steps_kept, write_snapshot
from quantbooth.tuning.tuner import State, Tuner

__all__ = ["Checkpoint", "Part", "Unfinished"]

FORMAT = 3
STALE = 600
"""Seconds after which a partial file belongs to a killed process."""


@dataclass(frozen=True)
class Header:
    """The metadata of a checkpoint's file."""

    record: str


@dataclass(frozen=True)
class Record:
    """What a checkpoint's header says: of which settings it is, and how far it is."""

    format: int
    version: str
    artifacts: list[str]
    run: int
    step: int
    seconds: float
    numbers: dict[str, Any]
    snapshots: list[dict[str, str]]


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after a step: tensors by name, and numbers."""

    path: Path
    step: int
    tensors: dict[str, Shaped[Tensor, "..."]]
    numbers: dict[str, Any]
    seconds: float

    def misfit(self, expected: Mapping[str, Shaped[Tensor, "..."]]) -> UserError | None:
        """Return the error of the first tensor that is missing or has another shape, if there is one."""
        for name, tensor in expected.items():
            found = self.tensors.get(name)
            if found is None or found.shape != tensor.shape:
                what = "none" if found is None else f"the shape {tuple(found.shape)}"
                return UserError(
                    f"{self.path} does not fit: {name} must have the shape {tuple(tensor.shape)}, found {what}; "
                    "remove it to start again"
                )
        return None


@dataclass
class Unfinished:
    """What is finished of one tuning, of one or several subjects, and the seconds that it took so far."""

    drafts: Sequence[Draft]
    earlier: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        return self.earlier + time.perf_counter() - self.started

    def part(self, number: int) -> "Part":
        """Return the part of one run of experts."""
        return Part(self, number, [draft.unfinished / f"run-{number}" for draft in self.drafts])

    def collect(self, tuner: Tuner, runs: int, steps: Sequence[int], precision: torch.dtype) -> None:
        """Write the snapshots of all runs, joined, into the drafts."""
        for place, draft in enumerate(self.drafts):
            folders = [self.part(number).folders[place] for number in range(runs)]
            for step in steps:
                if runs == 1:
                    _link(snapshot_path(folders[0], step), snapshot_path(draft.path, step))
                else:
                    for folder in folders:
                        snapshot_path(folder, step).stat()  # FileNotFoundError where another process finished first
                    states = [read_snapshot(folder, step) for folder in folders]
                    write_snapshot(draft.path, step, tuner.join(states), precision)

    def clear(self) -> None:
        """Remove all of it, when the artifacts are finished."""
        for draft in self.drafts:
            shutil.rmtree(draft.unfinished, ignore_errors=True)


@dataclass(frozen=True)
class Part:
    """The checkpoints and snapshots of one run of experts; `folders` has one folder for each subject."""

    whole: Unfinished
    number: int
    folders: Sequence[Path]

    def keep(self, step: int, states: Sequence[State], precision: torch.dtype) -> None:
        """Write the snapshot of each subject after a step."""
        for folder, state in zip(self.folders, states, strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            write_snapshot(folder, step, state, precision)

    def write(self, step: int, tensors: Mapping[str, Shaped[Tensor, "..."]], numbers: Mapping[str, Any]) -> None:
        """Write the state after a step, then remove that of earlier steps."""
        folder = self.folders[0]
        folder.mkdir(parents=True, exist_ok=True)
        record = {**self._made_for(), "step": step, "seconds": self.whole.seconds, "numbers": dict(numbers)}
        record["snapshots"] = [self._snapshots(each, step) for each in self.folders]
        partial = folder / f".checkpoint.{os.getpid()}.partial"
        saved = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(saved, partial, {"record": json.dumps(record)})
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        path = folder / f"checkpoint-{step:06d}-{checksum(partial)}.safetensors"
        partial.rename(path)
        for older in self._files():
            if older != path:
                older.unlink(missing_ok=True)

    def latest(self) -> Checkpoint | None:
        """Return the last checkpoint that is sound and was written by these settings; say why one is left out."""
        for partial in self.folders[0].glob(".checkpoint.*.partial"):
            if time.time() - partial.stat().st_mtime > STALE:
                partial.unlink(missing_ok=True)
        for path in sorted(self._files(), reverse=True):
            try:
                found = self._read(path)
            except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                sys.stderr.write(f"quantbooth: {path} is left out: {error}; what it had is tuned again\n")
                continue
            self.whole.earlier = max(self.whole.earlier, found.seconds)
            return found
        return None

    def _read(self, path: Path) -> Checkpoint:
        if not path.stem.endswith(f"-{checksum(path)}"):
            raise ValueError("it is damaged")
        with safe_open(path, "pt") as file:
            header = checked(Header, file.metadata(), "__metadata__")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        found = parsed_json(header.record, "its record")
        for key, value in self._made_for().items():
            if found[key] != value:
                raise ValueError(f"its {key} must be {value}, found {found[key]}")
        record = checked(Record, found, "its record")
        for folder, names in zip(self.folders, record.snapshots, strict=True):
            for name, value in names.items():
                if not (folder / name).is_file() or checksum(folder / name) != value:
                    raise ValueError(f"{folder / name} is missing or damaged")
        return Checkpoint(path, record.step, tensors, record.numbers, record.seconds)

    def _made_for(self) -> dict[str, Any]:
        artifacts = [draft.fingerprint for draft in self.whole.drafts]
        return {"format": FORMAT, "version": version("quantbooth"), "artifacts": artifacts, "run": self.number}

    def _files(self) -> list[Path]:
        return list(self.folders[0].glob("checkpoint-*.safetensors"))

    def _snapshots(self, folder: Path, last: int) -> dict[str, str]:
        paths = [snapshot_path(folder, step) for step in steps_kept(folder) if step <= last]
        return {path.name: checksum(path) for path in paths}


def _link(source: Path, target: Path) -> None:
    """Copy a file, without a second copy on disk where the file system can."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
