"""The models of a run: its base, float or quantized, untuned or tuned on its subjects after a step."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.pretrained import empty_denoiser, load_base
from quantbooth.diffusion.router import SubjectsRoute
from quantbooth.run.load import encoding_base, load, with_denoiser_of
from quantbooth.run.run import Run
from quantbooth.run.subject_run import SubjectRun

__all__ = [
    "base_for_encoding",
    "base_with",
    "tuned_base",
    "untuned_base",
    "whole_base",
    "with_untuned_denoiser",
]


def base_with(run: Run, quantized: Path | None, prompts: Sequence[str] | None = None) -> Base:
    """Return the base, float or with the denoiser of a quantized base's folder; it encodes `prompts` alone, or all."""
    run.check()
    device = run.loop.device
    return load(run.base_folder, run.base_name, quantized=quantized, prompts=prompts, device=device)[0]


def untuned_base(run: Run, prompts: Sequence[str] | None = None) -> Base:
    """Return the base, quantized unless quant=fp; it encodes `prompts` alone, or all."""
    return base_with(run, _quantized(run), prompts)


def base_for_encoding(run: Run, prompts: Sequence[str] | None) -> Base:
    """Return the base without weights of its denoiser; it encodes `prompts` alone, or all."""
    run.check()
    return encoding_base(run.base_folder, run.base_name, prompts, run.loop.device)


def with_untuned_denoiser(run: Run, base: Base) -> Base:
    """Return a base with the run's denoiser, quantized unless quant=fp."""
    return with_denoiser_of(base, run.base_folder, _quantized(run))


def _quantized(run: Run) -> Path | None:
    return None if run.quantized_base is None else run.quantized_base.require()


def tuned_base(
    run: Run, step: int, subjects: Sequence[SubjectRun] | None = None, prompts: Sequence[str] | None = None
) -> tuple[Base, SubjectsRoute | None]:
    """Return the base tuned on these subjects after a step, and the route that assigns rows to subjects.

    The default is the subjects of the run, and all prompts. Step 0 is the untuned base, which has no route.

    Raises:
        UserError: when the step was not kept, or what was tuned belongs to another base.
    """
    if step == 0:
        return untuned_base(run, prompts), None
    folders = [one.tuned.require() for one in subjects or run.subjects]
    found = (_quantized(run), step, run.strength, prompts, run.loop.device)
    return load(run.base_folder, run.base_name, folders, *found)


def whole_base(run: Run, base: Base) -> Base:
    """Return a base that draws, loading what it lacks: the autoencoder, and text encoders where nothing is encoded."""
    lacking = not base.encoders and not base.encoded
    whole = load_base(run.base_folder, base.name, empty_denoiser(run.base_folder), lacking).with_denoiser(base.denoiser)
    return whole if lacking else replace(whole, encoders=base.encoders, encoded=base.encoded)
