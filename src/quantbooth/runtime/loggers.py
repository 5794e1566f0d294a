"""Trackers for curves, sample grids and the report of a run, each closed at the end of its job.

`logger=[csv,wandb]` makes several, which get the same values under the same names.
"""

import csv
import hashlib
import netrc
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from omegaconf import DictConfig

from quantbooth.runtime.config import build
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.mlflow_runs import MLflowRun
from quantbooth.runtime.wandb_artifacts import MODES, Item, log_items, log_page
from quantbooth.runtime.wandb_runs import GIVEN_REPORT, GIVEN_SCORES, RUN_ID, OneRun, require_server

__all__ = [
    *("close", "csv_logger", "log_grid", "log_report", "log_scores", "log_values", "tensorboard_logger"),
    *("trackers_of", "wandb_logger"),
]

About = Callable[[], Mapping[str, Any]]
"""Says who a setting is, for trackers that show it; a function, because Hydra would build what a mapping holds."""
SCORED = "scores.sha256"
OF_ENVIRONMENT = {"name": "WANDB_NAME", "group": "WANDB_RUN_GROUP", "job_type": "WANDB_JOB_TYPE", "tags": "WANDB_TAGS"}


def trackers_of(cfg: DictConfig, run: str, about: About | None = None, step: int = 0) -> list[Logger]:
    """Return the trackers that a configuration names, for a run that goes on from a step.

    Raises:
        UserError: when one cannot be made.
    """
    if not cfg.get("logger"):
        raise UserError("logger must name a tracker, got none; choose logger=csv, or several, logger=[csv,wandb]")
    nodes = [cfg.logger] if "_target_" in cfg.logger else cfg.logger.values()  # an earlier version stored the only one
    return [build(node, Logger, run=run, step=step, about=about) for node in nodes]


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


def wandb_logger(
    folder: str, run: str, project: str, step: int = 0, about: About | None = None, artifacts: str = MODES[0]
) -> WandbLogger:
    """Start a Weights & Biases run named after its artifact; offline without a key (``wandb sync`` uploads it).

    A name is one W&B run, in which a run that goes on from `step` continues. `about` gives arguments of `wandb.init`:
    the name that is shown, group, job_type, tags, config; what is set in the environment wins. `artifacts` is one of
    `runtime.wandb_artifacts.MODES`.

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
    return OneRun(step, run, artifacts, project=project, save_dir=folder, offline=offline, **told)


def log_values(trackers: Iterable[Logger], values: Mapping[str, float], step: int) -> None:
    """Log values by name to every tracker."""
    for tracker in trackers:
        tracker.log_metrics(dict(values), step)


def log_scores(
    trackers: Iterable[Logger],
    scores: Sequence[tuple[int, Mapping[str, float]]],
    pictures: Sequence[tuple[Path, Mapping[str, Any]]],
    items: Sequence[Item] = (),
) -> None:
    """Log scores by step, and pictures of the last step with theirs; a tracker that has them gets nothing.

    Args:
        trackers: W&B alone shows the table of pictures, and artifacts.
        scores: step, and values by name.
        pictures: file, and values by name.
        items: artifacts that were used and made.
    """
    by_step: dict[int, dict[str, float]] = {}
    for step, values in scores:
        by_step.setdefault(step, {}).update(values)
    for tracker in trackers:
        if not _has_scores(tracker, by_step, repr(scores)):
            for step, joined in sorted(by_step.items()):
                _plain_class(tracker).log_metrics(tracker, joined, step)
            if isinstance(tracker, WandbLogger) and pictures:
                _log_pictures(tracker, pictures)
            if isinstance(tracker, OneRun):
                log_items(tracker, items, tracker.artifacts)
                tracker.note(GIVEN_SCORES, repr(scores))
            if isinstance(tracker, TensorBoardLogger):
                Path(tracker.log_dir, SCORED).write_text(_events(tracker, repr(scores)))


def _has_scores(tracker: Logger, by_step: Mapping[int, Mapping[str, float]], scores: str) -> bool:
    if isinstance(tracker, OneRun):
        return tracker.has(scores)
    if isinstance(tracker, MLflowRun):
        return tracker.has(by_step)
    if isinstance(tracker, TensorBoardLogger):
        note = Path(tracker.log_dir, SCORED)
        return note.is_file() and note.read_text() == _events(tracker, scores)
    if not isinstance(tracker, CSVLogger):
        return False
    tracker.save()
    rows = _rows(Path(tracker.log_dir, tracker.experiment.NAME_METRICS_FILE), sys.maxsize)
    known = {(int(row["step"]), key, value) for row in rows for key, value in row.items()}
    return all((step, key, str(value)) in known for step, values in by_step.items() for key, value in values.items())


def _events(tracker: TensorBoardLogger, scores: str) -> str:
    """Return a digest of scores and of the files of events: a tuning that is done again writes another one."""
    files = sorted(file.name for file in Path(tracker.log_dir).glob("events.*"))
    return hashlib.sha256(f"{files} {scores}".encode()).hexdigest()


def _plain_class(tracker: Logger) -> Any:
    """Return the class whose log_metrics logs any step: a run that goes on logs later steps alone."""
    return next((kind for kind in (WandbLogger, MLFlowLogger) if isinstance(tracker, kind)), type(tracker))


def _log_pictures(tracker: WandbLogger, pictures: Sequence[tuple[Path, Mapping[str, Any]]]) -> None:
    import wandb  # noqa: PLC0415  # optional: the extra [wandb]

    columns = ["picture", *dict.fromkeys(name for _, row in pictures for name in row)]
    rows = [[wandb.Image(str(file)), *(row.get(name) for name in columns[1:])] for file, row in pictures]
    tracker.log_table("pictures", columns, rows)


def log_grid(trackers: Iterable[Logger], picture: np.ndarray, step: int, title: str = "samples") -> None:
    """Log a grid of samples to the trackers that support pictures."""
    for tracker in trackers:
        if isinstance(tracker, WandbLogger):
            tracker.log_image(title, [picture], step=step)
        elif isinstance(tracker, TensorBoardLogger):
            tracker.experiment.add_image(title, picture, step, dataformats="HWC")
        elif isinstance(tracker, MLflowRun):
            tracker.log_picture(title, picture, step)


def close(trackers: Iterable[Logger]) -> None:
    """End the run, so that the next job of a sweep in this process starts a new one; one that never began has none."""
    for tracker in trackers:
        tracker.finalize("success" if sys.exc_info()[0] is None else "failed")
        if isinstance(tracker, WandbLogger):
            import wandb  # noqa: PLC0415  # optional: the extra [wandb]

            if wandb.run is not None:
                wandb.finish(exit_code=int(sys.exc_info()[0] is not None))
        if isinstance(tracker, OneRun):
            tracker.release()


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


def log_report(trackers: Iterable[Logger], files: Sequence[Path], used: Sequence[Item] = ()) -> None:
    """Give a report to the trackers that store files, W&B and MLflow, and end their runs; W&B gets none twice.

    Args:
        trackers: others are left alone.
        files: page, tables and plots.
        used: the scores in it.
    """
    for tracker in trackers:
        if not isinstance(tracker, WandbLogger | MLflowRun):
            continue
        if isinstance(tracker, WandbLogger) and RUN_ID in os.environ:
            continue  # the only run is that of the setting
        try:
            if isinstance(tracker, MLflowRun):
                tracker.log_files("report", files)
            elif not (isinstance(tracker, OneRun) and tracker.has_report(_tables(files))):
                mode = tracker.artifacts if isinstance(tracker, OneRun) else "none"
                log_items(tracker, used, mode)
                log_page(tracker, files, mode)
                if isinstance(tracker, OneRun):
                    tracker.note(GIVEN_REPORT, _tables(files))
        finally:
            close([tracker])


def _tables(files: Sequence[Path]) -> str:
    """Return what tables of a report hold; its page has the words that were typed."""
    return "".join(file.read_text(encoding="utf-8") for file in files if file.suffix == ".csv")
