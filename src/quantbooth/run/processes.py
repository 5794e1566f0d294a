"""Processes that share the tuning of a run, and the run as a further one of them has it."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from quantbooth.run.run import Run
from quantbooth.run.subject_run import SubjectRun
from quantbooth.runtime.processes import Share

__all__ = ["following"]


def following(share: Share, settings: Mapping[str, Any], subjects: Sequence[Mapping[str, Any]]) -> Run:
    """Return the run of these settings and subjects in a further process, whose device is its own."""
    trainer = settings["trainer"]
    device = 1 if trainer["accelerator"] == "cpu" else [share.rank]
    run = Run(OmegaConf.create({**settings, "trainer": {**trainer, "devices": device, "enable_progress_bar": False}}))
    run.subjects = tuple(SubjectRun(run, OmegaConf.create(dict(one))) for one in subjects)
    return run
