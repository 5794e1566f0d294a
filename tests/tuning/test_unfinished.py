"""Unfinished tuning on disk: experts are joined in the order of their zones, and only sound checkpoints are read."""

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from quantbooth.store.files import checksum
from quantbooth.store.store import Draft
from quantbooth.tuning.checkpoints import STALE, Part, Unfinished
from quantbooth.tuning.files import read_snapshot, snapshot_path
from quantbooth.tuning.tuner import Tuner
from quantbooth.tuning.tuners import LoraTuner, ScaleTuner


@pytest.mark.parametrize("tuner", [ScaleTuner(), LoraTuner()], ids=["scales", "adapters"])
def test_row_k_of_what_is_joined_is_expert_k_of_that_subject(tmp_path: Path, tuner: Tuner) -> None:
    drafts = [Draft(tmp_path / name, tmp_path / "sets" / f"{name}-1", "1") for name in ("mug", "duck")]
    for draft in drafts:
        draft.path.mkdir()
    unfinished, name = Unfinished(drafts), "layer.lora_A" if isinstance(tuner, LoraTuner) else "layer.gain_out"
    for expert in range(3):
        for step in (1, 2):
            states = [{name: torch.full((1, 4), 30.0 * subject + 10.0 * step + expert)} for subject in range(2)]
            unfinished.part(expert).keep(step, states, torch.float32)
    unfinished.collect(tuner, 3, [1, 2], torch.float32)
    for subject, draft in enumerate(drafts):
        for step in (1, 2):
            expected = 30 * subject + 10 * step + torch.arange(3.0)[:, None].expand(3, 4)
            assert torch.equal(read_snapshot(draft.path, step)[name], expected)


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    made = Draft(tmp_path / "draft", tmp_path / "sets" / "mug-1", "1")
    made.path.mkdir()
    return made


def written(draft: Draft, *steps: int) -> Part:
    part = Unfinished([draft]).part(0)
    for step in steps:
        part.keep(step, [{"a.gain_out": torch.full((1, 2), float(step))}], torch.float32)
        part.write(step, {"x": torch.full((3,), float(step))}, {"loss": 0.5})
    return part


def test_the_last_checkpoint_comes_back_and_earlier_ones_are_gone(draft: Draft) -> None:
    part = written(draft, 1, 2)
    found = part.latest()
    assert found is not None
    assert (found.step, found.numbers, found.tensors["x"].tolist()) == (2, {"loss": 0.5}, [2.0] * 3)
    assert len(list(part.folders[0].glob("checkpoint-*"))) == 1


@pytest.mark.parametrize("what", ["checkpoint", "snapshot", "no snapshot"])
def test_what_is_damaged_is_left_out(draft: Draft, capsys: pytest.CaptureFixture[str], what: str) -> None:
    part = written(draft, 1, 2)
    (file,) = part.folders[0].glob("checkpoint-*") if what == "checkpoint" else [snapshot_path(part.folders[0], 1)]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    if what == "no snapshot":
        file.unlink()
    assert part.latest() is None
    assert file.name in capsys.readouterr().err


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ({"more": "x"}, "more: unknown key"),
        ({"record": {"more": 1}}, "more: unknown key"),
        ({"record": {"step": "2"}}, "step"),
        ({"record": {"seconds": float("nan")}}, "NaN"),
        ({"record": {"snapshots": [1]}}, "snapshots"),
    ],
)
def test_a_header_that_says_what_is_not_known_is_left_out_naming_the_key(
    draft: Draft, capsys: pytest.CaptureFixture[str], header: dict[str, Any], told: str
) -> None:
    part = written(draft, 1)
    (file,) = part.folders[0].glob("checkpoint-*")
    with safe_open(file, "pt") as opened:
        record = json.loads(opened.metadata()["record"]) | header.pop("record", {})
    save_file(load_file(file), file, {"record": json.dumps(record), **header})
    file.rename(file.with_name(f"checkpoint-000001-{checksum(file)}.safetensors"))
    assert part.latest() is None
    assert told in capsys.readouterr().err


def test_partial_files_of_killed_processes_are_removed_and_those_of_others_kept(draft: Draft) -> None:
    part = written(draft, 1)
    old, new = (part.folders[0] / f".checkpoint.{number}.partial" for number in (1, 2))
    for file, age in ((old, STALE + 60), (new, STALE - 60)):
        file.write_bytes(b"")
        os.utime(file, (time.time() - age,) * 2)
    part.latest()
    assert [file.exists() for file in (old, new)] == [False, True]


@pytest.mark.parametrize("links", [True, False])
def test_one_run_is_taken_as_it_is_also_where_files_cannot_be_linked(
    draft: Draft, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    part = written(draft, 1, 2)
    if not links:

        def refused(source: Path, target: Path) -> None:
            raise OSError(errno.EXDEV, "other file system")

        monkeypatch.setattr(os, "link", refused)
    part.whole.collect(ScaleTuner(), 1, [1, 2], torch.float32)
    for step in (1, 2):
        assert snapshot_path(draft.path, step).read_bytes() == snapshot_path(part.folders[0], step).read_bytes()
