"""Trackers for curves, sample grids and the report of a run, each closed at the end of its job."""

import csv
import netrc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from quantbooth.runtime.wandb_runs import OneRun, require_server

__all__ = ["close", "csv_logger", "log_grid", "log_report", "log_scores", "tensorboard_logger", "wandb_logger"]

About = Callable[[], Mapping[str, Any]]
"""Says who a setting is, for trackers that show it; a function, because Hydra would build what a mapping holds."""
OF_ENVIRONMENT = {"name": "WANDB_NAME", "group": "WANDB_RUN_GROUP", "job_type": "WANDB_JOB_TYPE", "tags": "WANDB_TAGS"}


def csv_logger(folder: str, run: str, step: int = 0, about: About | None = None) -> CSVLogger:
    """Log curves to ``metrics.csv``; rows before `step`, from which the run goes on, stay."""
    earlier = _rows(Path(folder, "csv", run, "metrics.csv"), step)
    logger = CSVLogger(save_dir=folder, name="csv", version=run)
    if earlier:
        for row in earlier:
            values = {key: value for key, value in row.items() if key != "step" and value}
            logger.experiment.log_metrics(values, int(row["step"]))
        logger.save()
    return logger


def tensorboard_logger(folder: str, run: str, step: int = 0, about: About | None = None) -> TensorBoardLogger:
    """Log curves and grids as TensorBoard events; earlier events from `step` on are not shown any more."""
    return TensorBoardLogger(save_dir=folder, name="tensorboard", version=run, purge_step=step)


def wandb_logger(folder: str, run: str, project: str, step: int = 0, about: About | None = None) -> WandbLogger:
    """Start a Weights & Biases run named after its artifact; offline without a key (``wandb sync`` uploads it).

    A name is one W&B run, in which a run that goes on from `step` continues. `about` gives arguments of `wandb.init`:
    the name that is shown, group, job_type, tags, config; what is set in the environment wins.

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
    known = {} if about is None else about()
    told = {key: value for key, value in known.items() if value and OF_ENVIRONMENT.get(key, key) not in os.environ}
    return OneRun(step, run, project=project, save_dir=folder, offline=offline, **told)


def log_scores(
    logger: Logger,
    scores: Sequence[tuple[int, Mapping[str, float]]],
    pictures: Sequence[tuple[Path, Mapping[str, Any]]],
) -> None:
    """Log scores by step, and pictures of the last step with theirs, to a tracker of settings.

    Args:
        logger: CSV keeps curves of tuning alone: scores are tables in the store.
        scores: step, and values by name.
        pictures: file, and values by name.
    """
    if isinstance(logger, CSVLogger) or (isinstance(logger, OneRun) and logger.has(repr(scores))):
        return
    by_step: dict[int, dict[str, float]] = {}
    for step, values in scores:
        by_step.setdefault(step, {}).update(values)
    for step, joined in sorted(by_step.items()):
        (WandbLogger if isinstance(logger, WandbLogger) else type(logger)).log_metrics(logger, joined, step)
    if isinstance(logger, WandbLogger) and pictures:
        import wandb  # noqa: PLC0415  # optional: the extra [wandb]

        columns = ["picture", *dict.fromkeys(name for _, row in pictures for name in row)]
        rows = [[wandb.Image(str(file)), *(row.get(name) for name in columns[1:])] for file, row in pictures]
        logger.log_table("pictures", columns, rows)


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
