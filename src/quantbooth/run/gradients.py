"""The artifact of a subject's gradients by timestep, from which strategy=adaptive takes its borders before tuning."""

from functools import partial
from pathlib import Path

import torch

from quantbooth.diffusion.router import route_
from quantbooth.quant.selection import SetSelection
from quantbooth.run.models import untuned_base
from quantbooth.run.offloading import offload_
from quantbooth.run.subject_run import SubjectRun
from quantbooth.runtime.profiling import profile
from quantbooth.store.store import Artifact
from quantbooth.timesteps.strategies import Undecided
from quantbooth.timesteps.zones import equal_zones
from quantbooth.tuning.encoding import LazyLatents, cache_latents
from quantbooth.tuning.gradients import Gradients, measure_gradients, write_gradients

__all__ = ["make_gradients"]


def make_gradients(one: SubjectRun, artifact: Artifact, asked: Undecided) -> Path:
    """Measure the gradients of a subject unless they are finished; return their folder."""
    return artifact.get_or_make(partial(_make, one, artifact, asked))


def _make(one: SubjectRun, artifact: Artifact, asked: Undecided) -> None:
    with artifact.writing(one.settings) as draft:
        with profile() as cost:
            write_gradients(draft.path, _measured(one, asked, f"comparing timesteps of {one.name}"))
        draft.measured.update(seconds=round(cost.seconds, 3), peak_memory_bytes=cost.peak_memory_bytes)


def _measured(one: SubjectRun, asked: Undecided, what: str) -> Gradients:
    """Attach one set to the untuned base, at all timesteps, and measure."""
    run, selection = one.run, SetSelection()
    base = untuned_base(run, None if run.settings["tuner"]["identifier"] else [one.subject.tuning_text])
    with torch.no_grad():
        text = base.encode_prompts([one.subject.tuning_text])
    photos = cache_latents(LazyLatents(base.encode_images, one.subject.photos))
    run.tuner.prepare_(base, 1, selection)
    offload_(run, base)
    base = base.denoiser_alone
    route_(base, equal_zones(1, base.timesteps).index, selection)
    if run.settings["resources"]["gradient_checkpointing"]:
        base.enable_gradient_checkpointing_()
    bins = equal_zones(asked.bins, base.timesteps)
    return measure_gradients(base, photos, text, bins, asked.draws, run.settings["seed"], run.loop, what)
