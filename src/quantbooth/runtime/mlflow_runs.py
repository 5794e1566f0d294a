"""MLflow: one run for all processes that continue a tuning, in files under the logs or on the user's server."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import MLFlowLogger

from quantbooth.runtime.errors import UserError

__all__ = ["MLflowRun", "mlflow_logger"]

IDENTITY = "quantbooth.run"
"""The tag by which a run is found again."""
FILES = "mlruns"


def mlflow_logger(
    folder: str, run: str, project: str, step: int = 0, about: Callable[[], Mapping[str, Any]] | None = None
) -> "MLflowRun":
    """Start or continue an MLflow run in the experiment `project`, in files unless MLFLOW_TRACKING_URI names a server.

    Raises:
        UserError: without the package.
    """
    if find_spec("mlflow") is None:
        raise UserError(
            "logger=mlflow needs the package mlflow-skinny: pip install 'quantbooth[mlflow]', or choose logger=csv"
        )
    place = os.environ.get("MLFLOW_TRACKING_URI") or Path(folder, FILES).absolute().as_uri()
    if place.startswith("file:"):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # its successor, a data base, needs all of mlflow
    return MLflowRun(run, project, place, {} if about is None else about())


class MLflowRun(MLFlowLogger):
    """The MLflow run of a tuning, which several processes continue one after another, with each step once.

    Args:
        run: by which it is found again.
        project: the experiment.
        place: the tracking URI.
        about: name, group, job_type, tags and config, which is logged as parameters.
    """

    def __init__(self, run: str, project: str, place: str, about: Mapping[str, Any]) -> None:
        tags = {IDENTITY: run, **{key: str(about[key]) for key in ("group", "job_type") if about.get(key)}}
        tags |= {"tags": ", ".join(about["tags"])} if about.get("tags") else {}
        super().__init__(project, about.get("name") or run, place, tags)
        self._run, self._config = run, about.get("config")
        self._held: int | None = None

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self._held is None:
            self._held = self._go_on()
        if step is None or step > self._held:
            super().log_metrics(metrics, step)

    def has(self, by_step: Mapping[int, Mapping[str, float]]) -> bool:
        """Return whether the last scores are in the run; one that is not there begins."""
        if self._held is None:
            self._held = self._go_on()
        known = self.experiment.get_run(self.run_id).data.metrics
        return all(known.get(name) == value for name, value in by_step[max(by_step)].items())

    def log_picture(self, title: str, picture: np.ndarray, step: int) -> None:
        """Store a picture of a step as a file of the run."""
        if self._held is None:
            self._held = self._go_on()
        self.experiment.log_image(self.run_id, picture, f"{title}/step-{step:06d}.png")

    def log_files(self, folder: str, files: Sequence[Path]) -> None:
        """Store files of a report in the run."""
        for file in files:
            self.experiment.log_artifact(self.run_id, str(file), folder)

    def _go_on(self) -> int:
        """Find the run, or begin it with its options; return the last step of its curves."""
        logging.getLogger("lightning.pytorch.loggers.mlflow").setLevel(logging.ERROR)  # it warns of a new experiment
        client = self._mlflow_client
        project = client.get_experiment_by_name(self._experiment_name)
        query = f"tags.`{IDENTITY}` = '{self._run}'"
        found = [] if project is None else client.search_runs([project.experiment_id], query)
        if not found:
            if self._config:
                self.log_hyperparams(dict(self._config))
            return -1
        self._run_id = found[0].info.run_id
        curves = (client.get_metric_history(self._run_id, name) for name in found[0].data.metrics if "tune/" in name)
        return max((row.step for rows in curves for row in rows), default=-1)
