"""The report in a tracker: its files as one artifact of a run of its own, where the tracker keeps artifacts."""

from collections.abc import Sequence
from pathlib import Path

import wandb
from lightning.pytorch.loggers import Logger, WandbLogger

from quantbooth.stages.loggers import close

__all__ = ["log_report"]


def log_report(logger: Logger, files: Sequence[Path]) -> bool:
    """Hand the report's files to Weights & Biases, online or off; other trackers keep no files, and nothing is done.

    Returns:
        Whether the tracker took them.
    """
    if not isinstance(logger, WandbLogger):
        return False
    artifact = wandb.Artifact("report", type="report", description="quantbooth's page with its tables and plots")
    for file in files:
        artifact.add_file(str(file))
    try:
        logger.experiment.log_artifact(artifact)
    finally:
        close(logger)
    return True
