"""The overfitting indicator of what was just tuned, measured on the photos of each subject."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from quantbooth.diffusion.router import SubjectsRoute, route_
from quantbooth.quant.selection import SetSelection
from quantbooth.run.models import base_for_encoding, with_untuned_denoiser
from quantbooth.run.offloading import offload_
from quantbooth.run.run import Run
from quantbooth.run.subject_run import SubjectRun
from quantbooth.runtime.progress import say
from quantbooth.tuning.encoding import LazyLatents, cache_latents
from quantbooth.tuning.files import read_snapshot
from quantbooth.tuning.overfitting import errors_by_bin, indicator

__all__ = ["overfitting"]


def overfitting(run: Run, subjects: Sequence[SubjectRun], folders: Sequence[Path]) -> list[dict[str, list[float]]]:
    """Return what the manifest of each subject says about its last step: errors by timestep bin, and the indicator.

    Photos and prompts are encoded before the denoiser is read, as in tuning, unless a learned identifier changes them.
    """
    learns_words = bool(run.settings["tuner"]["identifier"])
    prompts = [one.subject.tuning_text for one in subjects]
    base = base_for_encoding(run, None if learns_words else prompts)
    photos = [cache_latents(LazyLatents(base.encode_images, one.subject.photos)) for one in subjects]
    texts = [] if learns_words else [base.encode_prompts([prompt]) for prompt in prompts]
    base = base if learns_words else base.denoiser_alone
    base = with_untuned_denoiser(run, base)
    offload_(run, base)
    selection, strategy, names = SetSelection(), run.strategy, [one.name for one in subjects]
    states = [read_snapshot(folder, run.recipe.steps) for folder in folders]
    run.loop.place(base.networks)

    def errors(place: int, what: str) -> list[float]:
        with torch.no_grad():
            text = texts[place] if texts else base.encode_prompts([prompts[place]])
        label = f"denoising photos of {names[place]} {what}"
        return errors_by_bin(base, photos[place], text, run.loop, run.recipe.batch, label)

    before = [errors(place, "untuned") for place in range(len(subjects))]
    state = states[0] if len(states) == 1 else run.tuner.join(states)
    run.tuner.load_(base, state, strategy.sets * len(states), selection)
    run.loop.place(base.networks)
    route = SubjectsRoute(strategy.route, strategy.sets, len(subjects))
    route_(base, route, selection)
    found = []
    for place, untuned in enumerate(before):
        route.choose(torch.tensor([place]))
        found.append(_record(names[place], untuned, errors(place, "tuned")))
    return found


def _record(name: str, untuned: list[float], tuned: list[float]) -> dict[str, list[float]]:
    if not all(map(math.isfinite, (*untuned, *tuned))):
        say(f"warning: the error of {name} on its photos is not finite at some timesteps, so overfitting is not known")
        return {}
    return {"errors_untuned": untuned, "errors_tuned": tuned, "overfitting": indicator(untuned, tuned)}
