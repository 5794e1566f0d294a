"""quantbooth-tune: a base learns its subjects.

quantbooth-tune subject=toy_mug strategy=s2 tuner.steps=200
quantbooth-tune subjects=[toy_mug,toy_duck] strategy=s2
"""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from quantbooth.data.subjects import Subject
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.router import SubjectsRoute, route_
from quantbooth.quant.selection import Selection
from quantbooth.run.models import untuned_base, whole_base
from quantbooth.run.run import Run, SubjectRun
from quantbooth.runtime.cli import command
from quantbooth.runtime.loggers import close
from quantbooth.runtime.profiling import Cost, measured
from quantbooth.runtime.progress import say_found
from quantbooth.sampling.drawing import draw_missing, gather
from quantbooth.sampling.image_set import Request, read_images, read_requests, requests_for, write_requests
from quantbooth.sampling.module import SamplingStage, drawings
from quantbooth.store.store import Draft, named
from quantbooth.timesteps.zones import Zones
from quantbooth.tuning.callbacks import SampleGrids, Snapshots
from quantbooth.tuning.encoding import Anew, EncodedAnew, once
from quantbooth.tuning.files import precision_of, read_snapshot, snapshot_path, write_snapshot
from quantbooth.tuning.module import Examples, OptimizerFactory, TuningStage
from quantbooth.tuning.optimizers import optimizer_factory
from quantbooth.tuning.tuners import State

__all__ = ["main", "tune"]


def tune(run: Run) -> list[Path]:
    """Tune on the photos of all subjects, those that are not there yet in one run; return what each of them taught."""
    run.check("strategy", "sampler", "recipe", "steps", "tuner")
    optimizer = optimizer_factory(run.settings["optimizer"])
    if todo := [one for one in run.subjects if not say_found(one.tuned.find())]:
        tune_experts(run, todo, optimizer)
    return [one.tuned.require() for one in run.subjects]


def tune_experts(run: Run, subjects: Sequence[SubjectRun], optimizer: OptimizerFactory) -> None:
    """One training run for each expert that is trained apart, or one for all, with every subject in it."""
    if run.recipe.class_batch_size:
        for one in subjects:
            say_found(one.prior.find())
            one.prior.made_by(partial(draw_prior, one))
    with ExitStack() as stack:
        drafts = [stack.enter_context(one.tuned.writing(one.settings)) for one in subjects]
        for draft in drafts:
            draft.contents.update(tuner=run.tuner.describe(), strategy=run.strategy.describe())
        with measured() as cost:
            for zones in run.strategy.runs:
                learn(run, subjects, zones, optimizer, drafts)
        for draft in drafts:
            draft.measured.update(costs_of(run, draft.path, cost, len(subjects)))


def costs_of(run: Run, folder: Path, cost: Cost, subjects: int) -> dict[str, float]:
    """What one subject cost: of several in a run its share of the seconds; memory is that of the run."""
    steps, seen = run.recipe.steps, run.recipe.samples_seen * len(run.strategy.runs)
    return {
        "seconds": round(cost.seconds / subjects, 3),
        "peak_memory_bytes": cost.peak_memory_bytes,
        "trainable": sum(tensor.numel() for tensor in read_snapshot(folder, steps).values()),
        "samples_seen": seen,
        "samples_per_expert": seen / run.strategy.sets,
        "file_bytes": snapshot_path(folder, steps).stat().st_size,
        **({"subjects_together": subjects} if subjects > 1 else {}),
    }


def draw_prior(one: SubjectRun) -> None:
    """Make the class's own pictures, once per base and class word."""
    run = one.run
    first, count = run.settings["prior"]["seed"], run.settings["prior"]["num_class_images"]
    text, item = one.subject.class_text, one.prior
    requests = [
        Request(f"{seed}.png", text, text, f"prior: {text}", "prior", seed) for seed in range(first, first + count)
    ]
    trainer = run.trainer(f"drawing {item.label}", shared=True)
    with item.writing(one.settings) as draft:
        stage = SamplingStage(untuned_base(run), run.sampler, drawings(requests, draft.unfinished))
        found = draw_missing(stage, trainer, run.protocol.batch)
        gather(requests, draft.unfinished, draft.path)
        draft.measured.update(found_drawn=sum(found))
        write_requests(draft.path, requests)
    shutil.rmtree(draft.unfinished, ignore_errors=True)


def keep(run: Run, drafts: Sequence[Draft], step: int, state: State) -> None:
    """Write what a run taught each subject, beside what runs of other experts left there."""
    precision = precision_of(run.settings["resources"]["save_dtype"])
    state = {name: tensor.cpu() for name, tensor in state.items()}  # files of earlier experts are read onto the CPU
    for draft, part in zip(drafts, run.tuner.part(state, len(drafts)), strict=True):
        earlier = [read_snapshot(draft.path, step)] if snapshot_path(draft.path, step).is_file() else []
        write_snapshot(draft.path, step, run.tuner.join([*earlier, part]), precision)


def learn(
    run: Run, subjects: Sequence[SubjectRun], zones: Zones, optimizer: OptimizerFactory, drafts: Sequence[Draft]
) -> None:
    """One training run, its snapshots written into the drafts, one of each subject."""
    resources, names = run.settings["resources"], [curve_name(run, zones, draft.destination.name) for draft in drafts]
    seed_everything(run.recipe.seed, verbose=False)
    base, selection = untuned_base(run), Selection()
    route = SubjectsRoute(zones.index, len(zones), len(subjects))
    examples = [encode(one, base) for one in subjects]
    learning = run.tuner.prepare_(base, len(zones), selection, len(subjects))
    sentences = [EncodedAnew(base, subjects[0].subject.tuning_text)] if "identifier" in learning else None
    if sentences is None and resources["cache_latents"]:
        base = base.denoiser_alone
    route_(base, route, selection)
    if resources["gradient_checkpointing"]:
        base.enable_gradient_checkpointing_()
    stage = TuningStage(base, learning, examples, zones, run.recipe, optimizer, sentences, route)
    snapshots = Snapshots(run.tuner, base, run.steps[1:], partial(keep, run, drafts), stage.kept)
    grids = [
        SampleGrids(
            partial(whole_base, run, base),
            run.sampler,
            watched(one.subject),
            run.settings["preview"]["validation_steps"],
            Path(run.settings["paths"]["logs"]) / "samples" / name,
            stage.kept,
            "samples" if len(subjects) == 1 else f"samples/{one.name}",
            route,
            place,
        )
        for place, (one, name) in enumerate(zip(subjects, names, strict=True))
    ]
    fit(run, stage, named(names), [snapshots, *grids])


def curve_name(run: Run, zones: Zones, artifact: str) -> str:
    """What curves and grids of an artifact are filed under; an expert that is trained apart has its own."""
    return f"{artifact}-{zones.zones[0].name}" if run.strategy.apart else artifact


def fit(run: Run, stage: TuningStage, name: str, callbacks: list[Callback]) -> None:
    """Train to the last step, curves in the tracker."""
    logger = run.logger(name)
    trainer: Trainer = run.trainer(f"tuning {name}", logger=logger, max_steps=run.recipe.steps, callbacks=callbacks)
    try:
        trainer.fit(stage)
    finally:
        close(logger)


def encode(one: SubjectRun, base: Base) -> Examples:
    """Return latents and texts of everything a run sees; without resources.cache_latents each step encodes its own."""
    run, subject = one.run, one.subject
    with torch.no_grad():
        texts = base.encode_prompts([subject.tuning_text, subject.class_text])
    photos, prior = subject.photos, subject.photos[:0]
    if run.recipe.class_batch_size:
        folder = one.prior.require()
        prior = read_images([folder / request.file for request in read_requests(folder)])
    if run.settings["tuner"]["random_flip"]:
        photos, prior = (torch.cat([pictures, pictures.flip(-1)]) for pictures in (photos, prior))
    made = [Anew(base.encode_images, pictures) for pictures in (photos, prior)]
    kept = [once(latents) for latents in made] if run.settings["resources"]["cache_latents"] else made
    return Examples(kept[0], texts[:1], kept[1], texts[1:], subject.name)


def watched(subject: Subject) -> list[Request]:
    """Eight prompts of all kinds to watch while tuning."""
    return requests_for(subject, [0], max(1, len(subject.prompts) // 8))[:8]


main = command(lambda cfg: tune(Run(cfg)), "quantbooth")

if __name__ == "__main__":
    main()
