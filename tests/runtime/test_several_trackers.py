"""Several trackers at once: the same values under the same names; MLflow as an extra; options stored before."""

import csv
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from composing import composed
from quantbooth.runtime import mlflow_runs
from quantbooth.runtime.config import plain
from quantbooth.runtime.errors import UserError, WrongOptions
from quantbooth.runtime.loggers import close, log_grid, log_report, log_scores, log_values, trackers_of
from quantbooth.runtime.mlflow_runs import MLflowRun, mlflow_logger
from quantbooth.runtime.options import require_valid
from wandb_files import wandb_steps

PICTURE = np.zeros((8, 16, 3), dtype=np.uint8)
MLFLOW = pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="needs the extra [mlflow]")


def test_each_tracker_gets_every_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    cfg = composed("logger=[csv,tensorboard,wandb]", f"paths.outputs={tmp_path}")
    assert list(cfg.logger) == ["csv", "tensorboard", "wandb"]
    trackers = trackers_of(cfg, "rex")
    for step in range(3):
        log_values(trackers, {"tune/loss": step / 4}, step)
    log_grid(trackers, PICTURE, 2)
    close(trackers)
    logs = tmp_path / "logs"
    rows = list(csv.DictReader((logs / "csv" / "rex" / "metrics.csv").open()))
    events = EventAccumulator(str(logs / "tensorboard" / "rex"))
    events.Reload()
    assert [float(row["tune/loss"]) for row in rows] == [0.0, 0.25, 0.5]
    assert [event.value for event in events.Scalars("tune/loss")] == [0.0, 0.25, 0.5]
    (run,) = (logs / "wandb").glob("offline-run-*")
    assert wandb_steps(run) == [0, 1, 2]
    assert len(events.Images("samples")) == len(list(run.rglob("*.png"))) == 1


def test_a_tracker_stored_without_a_name_is_the_only_one(tmp_path: Path) -> None:
    stored: Any = {**plain(composed()), "logger": plain(composed().logger)["csv"] | {"folder": str(tmp_path)}}
    cfg = OmegaConf.create(stored)
    require_valid(cfg)
    (tracker,) = trackers_of(cfg, "rex")
    assert tracker.save_dir == str(tmp_path)
    cfg.logger.colour = "red"
    with pytest.raises(WrongOptions, match=r"unknown option 'logger.only.colour'"):
        require_valid(cfg)


def test_no_tracker_is_refused() -> None:
    for word in ("logger=[]", "~logger"):
        with pytest.raises(UserError, match="logger must name a tracker, got none; choose logger=csv"):
            trackers_of(composed(word), "rex")


def test_mlflow_without_its_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_runs, "find_spec", lambda _: None)
    cfg = composed("logger=[csv,mlflow]", f"paths.outputs={tmp_path}")
    with pytest.raises(UserError, match=r"^logger=mlflow needs the package mlflow-skinny: pip install 'quantbooth\[ml"):
        trackers_of(cfg, "rex")


@MLFLOW
def test_mlflow_goes_on_in_the_same_run_with_each_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    about = {"name": "strategy=s1", "group": "sweep", "tags": ["toy_mug"], "config": {"tuner": {"steps": 8}}}
    scores = [(0, {"subject/clip_i": 0.5}), (8, {"subject/clip_i": 0.75})]
    for start, end in ((0, 6), (4, 8)):
        logger = mlflow_logger(str(tmp_path), "rex", "quantbooth", start, lambda: about)
        for step in range(start, end):
            logger.log_metrics({"tune/loss": step / 7}, step)
        close([logger])
    for _ in range(2):
        logger = mlflow_logger(str(tmp_path), "rex", "quantbooth", 9, lambda: about)
        log_scores([logger], scores, [])
        log_grid([logger], PICTURE, 8)
        log_report([logger], [Path(__file__)])
    client = logger.experiment
    (run,) = client.search_runs([client.get_experiment_by_name("quantbooth").experiment_id])
    assert [row.step for row in client.get_metric_history(run.info.run_id, "tune/loss")] == list(range(8))
    scored = client.get_metric_history(run.info.run_id, "subject/clip_i")
    assert [(row.step, row.value) for row in scored] == [(0, 0.5), (8, 0.75)]
    assert run.data.params == {"tuner/steps": "8"} and run.info.run_name == "strategy=s1"
    assert run.data.tags["group"] == "sweep" and run.data.tags["tags"] == "toy_mug"
    assert sorted(file.name for file in (tmp_path / "mlruns").rglob("*.p*")) == ["step-000008.png", Path(__file__).name]
    assert isinstance(logger, MLflowRun) and "mlflow" in sys.modules
