"""The report as an artifact: taken by W&B offline with every file, left alone by trackers that keep none."""

import time
from pathlib import Path

import pytest

from quantbooth.runtime.loggers import csv_logger, log_report, tensorboard_logger, wandb_logger


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "report"
    folder.mkdir()
    for name, text in (("index.html", "<p>page</p>"), ("table.csv", "method,clip_t\n")):
        (folder / name).write_text(text)
    (folder / "private.txt").write_text("not part of the report")
    return [folder / "index.html", folder / "table.csv"]


def test_wandb_offline_takes_the_files_and_nothing_else(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = wandb_logger(str(tmp_path / "logs"), "report", "quantbooth")
    log_report([logger], files)
    (run,) = (tmp_path / "logs" / "wandb").glob("offline-run-*")
    (record,) = run.glob("run-*.wandb")
    data, until = record.read_bytes(), time.monotonic() + 60
    while b"index.html" not in data and time.monotonic() < until:  # W&B's own process writes it
        time.sleep(0.1)
        data = record.read_bytes()
    assert b"index.html" in data and b"table.csv" in data and b"private.txt" not in data
    kept = [file.read_text() for file in tmp_path.glob("wandb_*dir/**/*") if file.is_file()]
    assert "<p>page</p>" in kept and "not part of the report" not in kept


def test_trackers_without_files_are_left_alone(tmp_path: Path, files: list[Path]) -> None:
    logs = str(tmp_path / "logs")
    log_report([csv_logger(logs, "report"), tensorboard_logger(logs, "report")], files)
    assert not (tmp_path / "logs").exists()
