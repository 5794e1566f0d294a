"""What stops the tuning of a run before its last step, from its options; the guard asks held-out prompts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from quantbooth.data.prompts import as_read
from quantbooth.data.questions import Questions
from quantbooth.data.subjects import Subject
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.sampler import Sampler
from quantbooth.evaluation.scores import clip_t
from quantbooth.run.experts import left_out, sampled_timesteps
from quantbooth.runtime.config import build
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.precision import full_precision
from quantbooth.sampling.image_set import Request
from quantbooth.sampling.module import SamplingModule, image_jobs
from quantbooth.schema import content
from quantbooth.schema_tuner import OFF
from quantbooth.tuning.callbacks import Snapshots
from quantbooth.tuning.checkpoints import Checkpoint
from quantbooth.tuning.module import TuningModule
from quantbooth.tuning.recipe import Recipe
from quantbooth.tuning.stopping import Stopping, Stops

if TYPE_CHECKING:
    import quantbooth.run.run
    from quantbooth.run.subject_run import SubjectRun

__all__ = [
    "WHY",
    "guard_identity",
    "guard_texts",
    "held_out",
    "measured_of",
    "not_guarded",
    "require_guard",
    "stopping_of",
    "stops_of",
]

WHY = "stopped_why"
"""The only text among what a manifest says was measured."""
SEED = 5
"""Seed of the guard's held-out prompts: other draws than those of calibration and of unrelated prompts."""


def stopping_of(settings: Mapping[str, Any]) -> Stopping | None:
    """Return when a run stops; None where it is tuned to its last step.

    Raises:
        UserError: for options without effect, a run that could never stop, or several subjects in one run.
    """
    given, steps = settings["tuner"]["stopping"], settings["tuner"]["steps"]
    every, window = given["every"], given["window"]
    if every is None:
        _require_unused(given, [key for key in OFF if key != "every"], "tuner.stopping.every, such as 20")
        return None
    if not given["variance"] and given["prompt_drop"] is None:
        raise UserError(
            f"tuner.stopping.every={every} needs tuner.stopping.variance, such as 0.05, or tuner.stopping.prompt_drop, "
            "such as 0.02; got 0 and null"
        )
    if given["prompt_drop"] is None:
        _require_unused(given, ["prompts", "sampler_steps"], "tuner.stopping.prompt_drop, such as 0.02")
    if given["prompt_drop"] is not None and every >= steps:
        raise UserError(
            f"tuner.stopping.every={every} looks too late to stop before tuner.steps={steps}; choose every < {steps}"
        )
    if given["prompt_drop"] is None and every * window >= steps:
        raise UserError(
            f"tuner.stopping.every={every} with tuner.stopping.window={window} looks too late to stop before "
            f"tuner.steps={steps}; choose every * window < {steps}"
        )
    if settings["subjects"] is not None and len(settings["subjects"]) > 1:
        raise UserError(
            f"tuner.stopping.every={every} ends the run of one subject, got several in subjects; sweep with "
            "-m subject=a,b"
        )
    return Stopping(every, window, given["variance"], given["prompt_drop"])


def _require_unused(given: Mapping[str, Any], options: Sequence[str], needs: str) -> None:
    for option in options:
        if given[option] != OFF[option]:
            raise UserError(f"tuner.stopping.{option}={given[option]} needs {needs}; leave it out, or set both")


def held_out(run: "quantbooth.run.run.Run", subject: Subject) -> list[Request]:
    """Return the guard's requests: held-out prompts of the base, none of which the subject is evaluated on.

    Raises:
        UserError: when there are too few.
    """
    count = run.settings["tuner"]["stopping"]["prompts"]
    own = {as_read(text) for prompt in subject.prompts for text in (subject.asked_text(prompt), prompt.template)}
    own |= {as_read(subject.judged_text(prompt)) for prompt in subject.prompts}
    questions = build(run.cfg.base.held_out, Questions, count=2 * count, seed=SEED)
    texts = list(dict.fromkeys(one.text for one in questions.each if as_read(one.text) not in own))[:count]
    if len(texts) < count:
        raise UserError(
            f"tuner.stopping.prompts={count} needs as many prompts of base.held_out, found {len(texts)}; take fewer"
        )
    return [Request(f"{place}.png", text, text, text, "held out", SEED) for place, text in enumerate(texts)]


def guard_texts(one: "SubjectRun") -> list[str]:
    """Return the prompts of the guard; none where there is none."""
    stopping = one.run.stopping
    guarded = stopping is not None and stopping.prompt_drop is not None
    return [request.text for request in held_out(one.run, one.subject)] if guarded else []


def require_guard(run: "quantbooth.run.run.Run") -> None:
    """Check that the guard's sampler can draw and that the scorer's encoder reads its prompts, before any work.

    Raises:
        UserError: for a number of steps that it cannot do, or a prompt that it cannot read.
    """
    if (sampler := _guard_sampler(run)) is not None:
        option, most = f"tuner.stopping.sampler_steps={sampler.steps}", run.cfg.base.timesteps
        if sampler.steps > most:
            raise UserError(f"{option} must be at most base.timesteps = {most}")
        try:
            sampled_timesteps(run.outline, sampler)
        except UserError as error:
            raise UserError(f"{option}: {error}") from error
    for one in run.subjects:
        if texts := guard_texts(one):
            run.scorer.encoder.texts(texts)


def not_guarded(run: "quantbooth.run.run.Run") -> Iterator[str]:
    """Yield a line for each expert whose zone has no timestep of the guard's sampler."""
    if (sampler := _guard_sampler(run)) is not None:
        for zone in left_out(run.strategy, sampled_timesteps(run.outline, sampler)):
            yield (
                f"warning: none of the {sampler.steps} timesteps of the prompt guard is in {zone}, so it does not see "
                "what the expert of this zone learns; raise tuner.stopping.sampler_steps"
            )


def _guard_sampler(run: "quantbooth.run.run.Run") -> Sampler | None:
    """Return what draws the guard's pictures; None where there is no guard."""
    if run.stopping is None or run.stopping.prompt_drop is None:
        return None
    return replace(run.sampler, steps=run.settings["tuner"]["stopping"]["sampler_steps"])


def guard_identity(one: "SubjectRun") -> dict[str, Any]:
    """Return what decides where the guard stops; nothing where there is none."""
    if not (texts := guard_texts(one)):
        return {}
    sampler = content(one.run.settings, "sampler")
    return {"guard": {"prompts": texts, "encoder": one.run.scorer.encoder.name, "sampler": sampler}}


def stops_of(
    one: "SubjectRun",
    base: Callable[[], Base],
    module: TuningModule,
    snapshots: Snapshots,
    found: Checkpoint | None,
) -> list[Stops]:
    """Return what looks at a training and ends it: one, or none where nothing stops it.

    Args:
        one: the subject.
        base: returns the base with all its networks.
        module: its training.
        snapshots: of the training.
        found: the checkpoint from which it goes on.
    """
    stopping = one.run.stopping
    if stopping is None:
        return []
    fidelity = _fidelity_of(one, base, module)
    return [Stops(stopping, module, snapshots, fidelity, None if found is None else found.numbers[Stops.name])]


def _fidelity_of(one: "SubjectRun", base: Callable[[], Base], module: TuningModule) -> Callable[[], float] | None:
    """Return what measures the mean CLIP-T of held-out prompts as the parameters are; None without a guard."""
    run = one.run
    if (sampler := _guard_sampler(run)) is None:
        return None
    return partial(_fidelity, run, base, module, sampler, held_out(run, one.subject))


@torch.no_grad()
def _fidelity(
    run: "quantbooth.run.run.Run",
    base: Callable[[], Base],
    module: TuningModule,
    sampler: Any,
    requests: Sequence[Request],
) -> float:
    jobs = image_jobs(requests, Path())
    drawing = SamplingModule(base(), sampler, jobs, module.route).to(module.device)
    pictures = drawing.render(jobs).clamp(0, 1).float()
    encoder = run.scorer.encoder.to(module.device)
    with full_precision(module.device):
        return float(clip_t(encoder.images(pictures), encoder.texts([one.text for one in requests])).double().mean())


def measured_of(recipe: Recipe, ended: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a manifest says of the ends of a subject's trainings, one figure or sentence for each."""
    if not ended:
        return {}
    return {
        **{f"stopped_{key}": [one[key] for one in ended] for key in ("at", "by")},
        WHY: [one["why"] for one in ended],
        "samples_seen": recipe.samples_of(sum(one["at"] for one in ended)),
        "frozen_losses": [loss for one in ended for loss in one["losses"]],
        "prompt_fidelity": [value for one in ended for value in one["fidelities"]],
    }
