"""A setting is one run of W&B: all options, curves of tuning, scores by step, pictures; the sweep is its group."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from quantbooth import programs
from quantbooth.run.tracking import KEYS
from quantbooth.runtime.loggers import close, csv_logger, log_scores, tensorboard_logger
from wandb_files import history, wandb_runs

Command = Callable[..., tuple[int, str]]
QUICK = (
    *("base=folder", "base.resolution=32", "calibration=minmax", "sampler.steps=1", "prior=none"),
    *("tuner.steps=2", "preview.validation_steps=2", "protocol.prompt_stride=13", "protocol.eval_steps=[1]"),
)


@pytest.fixture
def command(typed: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for name in ("WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_JOB_TYPE", "WANDB_TAGS"):
        monkeypatch.delenv(name, raising=False)
    return lambda *words: typed(programs.pipeline, *QUICK, "logger=wandb", *words)


def runs(out: Path) -> dict[str, list[Record]]:
    return wandb_runs(out / "logs")


@pytest.mark.chain
def test_one_run_has_options_curves_scores_and_pictures(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert command("-m", "strategy=baseline,s1")[0] == 0
    found = runs(out)
    assert len(found) == 3
    groups = set()
    for name, read in found.items():
        begun = next(record.run for record in read if record.HasField("run"))
        groups.add(begun.run_group)
        if name.startswith("report-"):
            assert begun.job_type == "report"
            continue
        config = {item.key: json.loads(item.value_json) for item in begun.config.update}
        method = "s1" if "-s1-" in name else "baseline"
        assert begun.display_name == f"strategy={method}" and begun.job_type == "tune"
        assert {"toy_mug", "w4"} < set(begun.tags)
        assert config["tuner"]["steps"] == 2 and config["strategy"]["_target_"].endswith(method)
        assert "torch" in config["made"]["versions"]
        rows = history(read)
        assert [row["trainer/global_step"] for row in rows if "subject/local_clip_i" in row] == [0, 1, 2]
        last = next(row for row in reversed(rows) if "cost/seconds" in row)
        assert {"prompt/clip_t", "subject/clip_i", "cost/trainable", "cost/peak_memory_bytes"} < last.keys()
        assert any("tune/loss" in row for row in rows) or any("samples/filenames" in row for row in rows)
        assert any("pictures/nrows" in row or row.get("pictures/_type") == "table-file" for row in rows)
    assert len(groups) == 1 and groups != {""}
    before = sorted(found)
    assert command("-m", "strategy=baseline,s1")[0] == 0
    assert sorted(run for run in runs(out) if not run.startswith("report")) == before[1:]  # nothing is told twice


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
