"""Trackers for curves, sample grids and the report of a run, each closed at the end of its job."""

import csv
import netrc
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

__all__ = ["close", "csv_logger", "log_grid", "log_report", "tensorboard_logger", "wandb_logger"]


def csv_logger(folder: str, run: str, step: int = 0) -> CSVLogger:
    """Log curves to ``metrics.csv``; a run that goes on from a step keeps the rows before it."""
    file = Path(folder) / "csv" / run / "metrics.csv"
    lines = file.read_text(encoding="utf-8").splitlines() if step and file.is_file() else []
    rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(lines) if int(row["step"]) < step]
    file.unlink(missing_ok=True)  # Lightning would warn, and remove it
    logger = CSVLogger(save_dir=folder, name="csv", version=run)
    if rows:
        logger.experiment.metrics += rows
    return logger


def tensorboard_logger(folder: str, run: str, step: int = 0) -> TensorBoardLogger:
    """Log curves and grids as TensorBoard events; those of an earlier attempt from `step` on are hidden."""
    return TensorBoardLogger(save_dir=folder, name="tensorboard", version=run, purge_step=step)


def wandb_logger(folder: str, run: str, project: str, step: int = 0) -> WandbLogger:
    """Start a Weights & Biases run named after its artifact, or go on with it; offline without a key.

    The artifact's name is the run's id too. ``wandb sync`` uploads a run that was offline.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    offline = not _has_wandb_key() or os.environ.get("WANDB_MODE") == "offline"
    return WandbLogger(project=project, name=run, id=run, resume="allow", save_dir=folder, offline=offline)


def log_grid(logger: Logger | None, picture: np.ndarray, step: int, title: str = "samples") -> None:
    """Log a grid of samples, if the tracker supports pictures."""
    if isinstance(logger, WandbLogger):
        logger.log_image(title, [picture], step=step)
    elif isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(title, picture, step, dataformats="HWC")


def close(logger: Logger | None) -> None:
    """End the run, so that the next job of a sweep in this process starts a new one."""
    if logger is not None:
        logger.finalize("success")
    if isinstance(logger, WandbLogger):
        logger.experiment.finish()


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def log_report(logger: Logger, files: Sequence[Path]) -> bool:
    """Upload the report's files to Weights & Biases, online or offline; other trackers do not store files.

    Returns:
        Whether the tracker stored them.
    """
    if not isinstance(logger, WandbLogger):
        return False
    import wandb  # noqa: PLC0415  # optional: the extra [wandb]

    artifact = wandb.Artifact("report", type="report", description="the page, tables and plots of a report")
    for file in files:
        artifact.add_file(str(file))
    try:
        logger.experiment.log_artifact(artifact)
    finally:
        close(logger)
    return True
