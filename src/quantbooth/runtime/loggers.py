"""Trackers for curves, sample grids and the report of a run, each closed at the end of its job."""

import netrc
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

__all__ = ["close", "csv_logger", "log_grid", "log_report", "tensorboard_logger", "wandb_logger"]


def csv_logger(folder: str, run: str) -> CSVLogger:
    """Log curves to ``metrics.csv``."""
    return CSVLogger(save_dir=folder, name="csv", version=run)


def tensorboard_logger(folder: str, run: str) -> TensorBoardLogger:
    """Log curves and grids as TensorBoard events."""
    return TensorBoardLogger(save_dir=folder, name="tensorboard", version=run)


def wandb_logger(folder: str, run: str, project: str) -> WandbLogger:
    """Start a Weights & Biases run named after its artifact; offline without a key (``wandb sync`` uploads it)."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    offline = not _has_wandb_key() or os.environ.get("WANDB_MODE") == "offline"
    return WandbLogger(project=project, name=run, save_dir=folder, offline=offline)


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
