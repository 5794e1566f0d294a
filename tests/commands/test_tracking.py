"""A setting is one run of W&B: all options, curves of tuning, scores by step, pictures; the sweep is its group."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import ArtifactRecord, Record

from quantbooth import programs
from quantbooth.run.tracking import KEYS
from quantbooth.runtime.loggers import close, csv_logger, log_scores, tensorboard_logger
from wandb_files import history, summary, wandb_runs

Command = Callable[..., tuple[int, str]]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=1", "prior=none"),
    *("tuner.steps=2", "preview.validation_steps=2", "protocol.prompt_stride=13", "protocol.eval_steps=[1]"),
)


@pytest.fixture
def command(typed: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_JOB_TYPE", "WANDB_TAGS"):
        monkeypatch.delenv(name, raising=False)
    return lambda *words: typed(programs.pipeline, *QUICK, "logger=wandb", *words)


def runs(out: Path) -> dict[str, list[Record]]:
    return wandb_runs(out / "logs")


def artifacts(read: list[Record]) -> dict[str, list[ArtifactRecord]]:
    """Return the artifacts of a run by kind."""
    found: dict[str, list[ArtifactRecord]] = {}
    for record in read:
        if record.HasField("artifact"):
            found.setdefault(record.artifact.type, []).append(record.artifact)
    return found


def about(artifact: ArtifactRecord) -> dict[str, Any]:
    return dict(json.loads(artifact.metadata))


@pytest.mark.chain
def test_a_sweep_is_a_run_for_each_setting_and_one_of_its_report(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["-m", "subject=toy_duck", "strategy=baseline,s2", "trainer.log_every_n_steps=1"]
    assert command(*words)[0] == 0
    found = runs(out)
    assert len(found) == 3
    groups, scores = set(), set()
    for name, read in found.items():
        begun = next(record.run for record in read if record.HasField("run"))
        groups.add(begun.run_group)
        if name.startswith("report-"):
            continue
        method = next(one for one in ("baseline", "s2") if f"-{one}-" in name)
        assert begun.display_name == f"strategy={method}" and begun.job_type == "tune"
        assert {"toy_duck", "w4"} < set(begun.tags)
        assert_has_all(read, method, 2)
        scores |= {about(one)["fingerprint"] for one in artifacts(read)["scores"]}
    assert len(groups) == 1 and groups != {""}
    assert_is_report(next(read for name, read in found.items() if name.startswith("report-")), scores)
    before = {file.name for file in (out / "logs" / "wandb").glob("offline-run-*")}
    assert command(*words)[0] == 0
    assert {file.name for file in (out / "logs" / "wandb").glob("offline-run-*")} == before


def assert_has_all(read: list[Record], method: str, steps: int) -> None:
    """Assert that a run has options, curves, scores at every step, their last as summary, pictures, and lineage."""
    begun = next(record.run for record in read if record.HasField("run"))
    config = {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert config["tuner"]["steps"] == steps and config["strategy"]["_target_"].endswith(method)
    assert "torch" in config["made"]["versions"]
    rows = history(read)
    assert [row["trainer/global_step"] for row in rows if "tune/loss" in row] == list(range(steps))
    curves = {"tune/loss/frozen", "tune/learning_rate/gains", "tune/peak_memory_bytes", "tune/seconds"}
    assert all(curves < row.keys() for row in rows if "tune/loss" in row)
    assert any(key.startswith("tune/loss/zone/") for row in rows for key in row)
    assert any(key.startswith("tune/loss/bin/") for row in rows for key in row)
    assert any(key.startswith("gain/") for row in rows for key in row)
    assert sum("samples/filenames" in row or row.get("samples/_type") == "images/separated" for row in rows) == 1
    scored = [row for row in rows if "subject/local_clip_i" in row]
    assert [row["trainer/global_step"] for row in scored] == [0, 1, steps]
    assert {"prompt/clip_t", "subject/clip_i", "cost/trainable", "cost/seconds"} < scored[-1].keys()
    assert summary(read)["subject/local_clip_i"] == scored[-1]["subject/local_clip_i"]
    assert summary(read)["prompt/clip_t"] == scored[-1]["prompt/clip_t"]
    (table,) = (row for row in rows if row.get("pictures/_type") == "table-file")
    assert table["pictures/nrows"] > 0
    made = artifacts(read)
    assert {kind: len(each) for kind, each in made.items() if not kind.startswith(("run_table", "wandb-"))} == {
        **{"quantized_base": 1, "scale_sets": 1, "image_set": 3, "scores": 3}
    }
    (base,), (tuned,) = made["quantized_base"], made["scale_sets"]
    assert base.use_after_commit and not tuned.use_after_commit
    assert about(tuned)["parents"]["quantized_base"] == about(base)["fingerprint"]
    images = {about(one)["fingerprint"]: about(one)["parents"] for one in made["image_set"]}
    assert sum(parents.get("tuned") == about(tuned)["fingerprint"] for parents in images.values()) == 2
    assert {about(one)["parents"]["images"] for one in made["scores"]} == set(images)
    named = {entry.path: entry.ref for entry in tuned.manifest.contents}
    assert {path for path, place in named.items() if not place} == {"manifest.json", "config.yaml"}  # uploaded
    step = f"step-{steps:06d}.safetensors"
    assert named[f"store/{step}"].endswith(f"/scale_sets/{tuned.name}/{step}")


def assert_is_report(read: list[Record], scores: set[str]) -> None:
    """Assert that a run has the page, the table and the files of a report, of these scores."""
    begun = next(record.run for record in read if record.HasField("run"))
    assert begun.job_type == "report"
    values = {key: value for row in history(read) for key, value in row.items()}
    assert values["report/page/_type"] == "html-file" and values["report/table/_type"] == "table-file"
    assert values["report/table/nrows"] == 3  # the untuned base and two strategies
    made = artifacts(read)
    assert {about(one)["fingerprint"] for one in made["scores"]} == scores
    assert all(one.use_after_commit for one in made["scores"])
    assert {"index.html", "table.csv"} < {entry.path for entry in made["report"][0].manifest.contents}


@pytest.mark.chain
def test_work_that_was_finished_without_a_tracker_is_told_once(command: Command, tmp_path: Path) -> None:
    assert command("logger=csv")[0] == 0
    assert command()[0] == 0
    (one,) = (read for name, read in runs(tmp_path / "out").items() if not name.startswith("report"))
    assert [row["trainer/global_step"] for row in history(one) if "prompt/clip_t" in row] == [0, 1, 2]
    assert command("strength=0.5")[0] == 0
    names = [name for name in runs(tmp_path / "out") if not name.startswith("report")]
    assert len(names) == 2 and sum(name.endswith("-x0.5") for name in names) == 1


def test_scores_have_the_same_names_in_other_trackers_and_are_logged_once(tmp_path: Path) -> None:
    scores = [(0, {"subject/clip_i": 0.5}), (4, {"subject/clip_i": 0.75, "cost/seconds": 3.0})]
    for _ in range(2):
        trackers = [tensorboard_logger(str(tmp_path), "rex", 5), csv_logger(str(tmp_path), "rex", 5)]
        log_scores(trackers, scores, [])
        close(trackers)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "rex"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("subject/clip_i")] == [(0, 0.5), (4, 0.75)]
    rows = (tmp_path / "csv" / "rex" / "metrics.csv").read_text().splitlines()
    assert rows == ["cost/seconds,step,subject/clip_i", ",0,0.5", "3.0,4,0.75"]
    assert len(set(KEYS.values())) == len(KEYS)
