"""The models of a run: its base, float or quantized, untuned or tuned on its subjects after a step."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.pretrained import empty_denoiser, load_base
from quantbooth.diffusion.router import SubjectsRoute
from quantbooth.run.load import load
from quantbooth.run.run import Run
from quantbooth.run.subject_run import SubjectRun

__all__ = ["base_with", "tuned_base", "untuned_base", "whole_base"]


def base_with(run: Run, quantized: Path | None) -> Base:
    """Return the base, float or with the denoiser of a quantized base's folder."""
    run.check()
    return load(run.base_folder, run.base_name, quantized=quantized)[0]


def untuned_base(run: Run) -> Base:
    """Return the base, quantized unless quant=fp."""
    return base_with(run, None if run.quantized_base is None else run.quantized_base.require())


def tuned_base(run: Run, step: int, subjects: Sequence[SubjectRun] | None = None) -> tuple[Base, SubjectsRoute | None]:
    """Return the base tuned on these subjects after a step, and the route that assigns rows to subjects.

    The default is the subjects of the run. Step 0 is the untuned base, which has no route.

    Raises:
        UserError: when the step was not kept, or what was tuned belongs to another base.
    """
    if step == 0:
        return untuned_base(run), None
    folders = [one.tuned.require() for one in subjects or run.subjects]
    quantized = None if run.quantized_base is None else run.quantized_base.require()
    return load(run.base_folder, run.base_name, folders, quantized, step, run.strength)


def whole_base(run: Run, base: Base) -> Base:
    """Return the base with all its networks, loading those that it lacks."""
    whole = load_base(run.base_folder, base.name, empty_denoiser(run.base_folder)).with_denoiser(base.denoiser)
    return replace(whole, encoders=base.encoders) if base.encoders else whole
