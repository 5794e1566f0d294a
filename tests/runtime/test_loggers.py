"""Trackers: each run in a folder of its own, pictures where they can be shown, W&B offline without a key."""

from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from quantbooth.runtime import loggers
from quantbooth.runtime.loggers import close, csv_logger, log_grid, tensorboard_logger, wandb_logger

PICTURE = np.zeros((8, 16, 3), dtype=np.uint8)


def test_curves_are_rows_of_a_file_named_by_the_run(tmp_path: Path) -> None:
    logger = csv_logger(str(tmp_path), "rex-s2-0123")
    logger.log_metrics({"tune/loss": 0.5}, step=3)
    log_grid([logger], PICTURE, 3)
    close([logger])
    assert (tmp_path / "csv" / "rex-s2-0123" / "metrics.csv").read_text().splitlines() == ["step,tune/loss", "3,0.5"]


def test_tensorboard_gets_curves_and_grids(tmp_path: Path) -> None:
    logger = tensorboard_logger(str(tmp_path), "rex-s2-0123")
    logger.log_metrics({"tune/loss": 0.5}, step=3)
    log_grid([logger], PICTURE, 3)
    close([logger])
    events = EventAccumulator(str(tmp_path / "tensorboard" / "rex-s2-0123"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("tune/loss")] == [(3, 0.5)]
    (image,) = events.Images("samples")
    assert (image.step, image.width, image.height) == (3, 16, 8)


@pytest.mark.parametrize(
    ("key", "mode", "offline"), [("", "", True), ("k" * 40, "", False), ("k" * 40, "offline", True)]
)
def test_wandb_is_offline_without_a_key_or_when_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, mode: str, offline: bool
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setattr(loggers, "require_server", lambda: asked.append(True))
    asked: list[bool] = []
    logger = wandb_logger(str(tmp_path / "logs"), "rex-s2-0123", "quantbooth")
    assert logger._offline is offline
    assert len(asked) == (not offline)
    assert (logger._name, logger._project) == ("rex-s2-0123", "quantbooth")


def test_a_key_in_netrc_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert not loggers._has_wandb_key()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password " + "k" * 40)
    (tmp_path / ".netrc").chmod(0o600)
    assert loggers._has_wandb_key()


def test_no_logger_needs_no_closing() -> None:
    close([])
    log_grid([], PICTURE, 0)
