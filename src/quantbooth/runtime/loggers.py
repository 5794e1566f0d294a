"""Trackers for curves, sample grids and the report of a run, each closed at the end of its job."""

import csv
import netrc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from quantbooth.runtime.wandb_runs import OneRun, require_server

__all__ = ["close", "csv_logger", "log_grid", "log_report", "tensorboard_logger", "wandb_logger"]


def csv_logger(folder: str, run: str, step: int = 0) -> CSVLogger:
    """Log curves to ``metrics.csv``; rows before `step`, from which the run goes on, stay."""
    earlier = _rows(Path(folder, "csv", run, "metrics.csv"), step)
    logger = CSVLogger(save_dir=folder, name="csv", version=run)
    if earlier:
        for row in earlier:
            values = {key: value for key, value in row.items() if key != "step" and value}
            logger.experiment.log_metrics(values, int(row["step"]))
        logger.save()
    return logger


def tensorboard_logger(folder: str, run: str, step: int = 0) -> TensorBoardLogger:
    """Log curves and grids as TensorBoard events; earlier events from `step` on are not shown any more."""
    return TensorBoardLogger(save_dir=folder, name="tensorboard", version=run, purge_step=step)


def wandb_logger(folder: str, run: str, project: str, step: int = 0) -> WandbLogger:
    """Start a Weights & Biases run named after its artifact; offline without a key (``wandb sync`` uploads it).

    A name is one W&B run, in which a run that goes on from `step` continues.

    Raises:
        UserError: when the server does not answer.
    """
    mode = os.environ.get("WANDB_MODE")
    offline = not _has_wandb_key() or mode == "offline"
    if not offline and mode not in ("dryrun", "disabled"):
        require_server()
    Path(folder).mkdir(parents=True, exist_ok=True)
    if mode == "disabled":
        return WandbLogger(project=project, name=run, save_dir=folder, offline=offline)
    return OneRun(step, project=project, name=run, save_dir=folder, offline=offline)


def log_grid(logger: Logger | None, picture: np.ndarray, step: int, title: str = "samples") -> None:
    """Log a grid of samples, if the tracker supports pictures."""
    if isinstance(logger, WandbLogger):
        logger.log_image(title, [picture], step=step)
    elif isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(title, picture, step, dataformats="HWC")


def close(logger: Logger | None) -> None:
    """End the run, so that the next job of a sweep in this process starts a new one; one that never began has none."""
    if logger is not None:
        logger.finalize("success")
    if isinstance(logger, WandbLogger):
        import wandb  # noqa: PLC0415  # optional: the extra [wandb]

        if wandb.run is not None:
            wandb.finish(exit_code=int(sys.exc_info()[0] is not None))


def _rows(file: Path, end: int) -> list[dict[str, str]]:
    """Return the rows of a file of curves before step `end`."""
    if not end or not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if None not in row.values()]
    return [row for row in rows if row.get("step", "").isdigit() and int(row["step"]) < end]


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
