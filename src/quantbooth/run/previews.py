"""Previews of a tuning: grids of the same pictures of each subject, every few steps."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from quantbooth.diffusion.base import Base
from quantbooth.run.examples import preview_requests
from quantbooth.run.models import whole_base
from quantbooth.run.run import Run
from quantbooth.run.subject_run import SubjectRun
from quantbooth.tuning.callbacks import SampleGrids
from quantbooth.tuning.module import TuningModule

__all__ = ["previews"]


def previews(
    run: Run, base: Base, module: TuningModule, subjects: Sequence[SubjectRun], names: Sequence[str]
) -> list[SampleGrids]:
    """Return what generates the preview grids of each subject."""
    return [
        SampleGrids(
            partial(whole_base, run, base),
            run.sampler,
            preview_requests(one.subject),
            run.settings["preview"]["validation_steps"],
            Path(run.settings["paths"]["logs"]) / "samples" / name,
            module.kept,
            "samples" if len(subjects) == 1 else f"samples/{one.name}",
            module.route,
            place,
        )
        for place, (one, name) in enumerate(zip(subjects, names, strict=True))
    ]
