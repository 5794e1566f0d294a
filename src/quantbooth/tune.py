"""quantbooth-tune: a base learns a subject.

quantbooth-tune subject=toy_mug strategy=s2 tuner.steps=200
quantbooth-tune subject=[toy_mug,toy_duck] tuner.together=true strategy=s2
"""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from quantbooth.artifacts.image_set import Request, read_images, read_requests, requests_for, write_requests
from quantbooth.artifacts.store import Draft
from quantbooth.artifacts.tuned import read_snapshot, snapshot_path, write_snapshot, write_strategy
from quantbooth.cli import command
from quantbooth.config import build
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.router import SubjectsRoute, route_
from quantbooth.plan import Plan
from quantbooth.quant.selection import Selection
from quantbooth.stages.callbacks import SampleGrids, Snapshots
from quantbooth.stages.costs import Cost, measured
from quantbooth.stages.drawing import draw_set
from quantbooth.stages.latents import Anew, once
from quantbooth.stages.loggers import close
from quantbooth.stages.optimizers import optimizer_factory
from quantbooth.stages.progress import Bar
from quantbooth.stages.sampling import SamplingStage
from quantbooth.stages.sentences import EncodedAnew
from quantbooth.stages.tuners import State
from quantbooth.stages.tuning import Examples, OptimizerFactory, TuningStage
from quantbooth.timesteps.zones import Zones
from quantbooth.together import named, require_together

__all__ = ["main", "tune", "tune_all"]


def tune(cfg: DictConfig) -> Path:
    """Tune on the subject's photos, every expert of the strategy; return the folder of what was learned."""
    return tune_all([cfg])[0]


def tune_all(cfgs: Sequence[DictConfig]) -> list[Path]:
    """The same for several subjects, in one run of all that are not there yet; each leaves a folder of its own."""
    plans = [Plan(cfg) for cfg in cfgs]
    optimizer = optimizer_factory(plans[0].settings["optimizer"])
    require_together(plans)
    if todo := [plan for plan in plans if not plan.tuned.find()]:
        tune_together(todo, optimizer)
    return [plan.tuned.require() for plan in plans]


def tune_together(plans: Sequence[Plan], optimizer: OptimizerFactory) -> None:
    """One run for each expert that is trained apart, or one for all, with every subject in it."""
    for plan in plans:
        if plan.recipe.prior_batch:
            draw_prior(plan)
    with ExitStack() as stack:
        drafts = [stack.enter_context(plan.tuned.writing(plan.settings)) for plan in plans]
        for plan, draft in zip(plans, drafts, strict=True):
            write_strategy(draft.path, plan.strategy)
        with measured() as cost:
            for zones in plans[0].strategy.runs:
                learn(plans, zones, optimizer, drafts)
        for plan, draft in zip(plans, drafts, strict=True):
            draft.measured.update(costs_of(plan, draft.path, cost, len(plans)))


def costs_of(plan: Plan, folder: Path, cost: Cost, subjects: int) -> dict[str, float]:
    """What one subject cost: of several in a run its share of the seconds; memory is that of the run."""
    steps, seen = plan.recipe.steps, plan.recipe.samples_seen * len(plan.strategy.runs)
    return {
        "seconds": round(cost.seconds / subjects, 3),
        "peak_memory_bytes": cost.peak_memory_bytes,
        "trainable": sum(tensor.numel() for tensor in read_snapshot(folder, steps).values()),
        "samples_seen": seen,
        "samples_per_expert": seen / plan.strategy.sets,
        "file_bytes": snapshot_path(folder, steps).stat().st_size,
        **({"subjects_together": subjects} if subjects > 1 else {}),
    }


def draw_prior(plan: Plan) -> None:
    """Make the class's own pictures, once per base and class word."""
    plan.prior.made_by(lambda: _draw_prior(plan))


def _draw_prior(plan: Plan) -> None:
    first, count = plan.settings["prior"]["seed"], plan.settings["prior"]["count"]
    text = plan.subject.class_text
    requests = [
        Request(f"{seed}.png", text, text, f"prior: {text}", "prior", seed) for seed in range(first, first + count)
    ]
    bar = Bar(f"drawing {plan.prior.label}")
    trainer = build(plan.cfg.trainer, Trainer, shared=True, logger=False, callbacks=[bar])
    with plan.prior.writing(plan.settings) as draft:
        stage = SamplingStage(plan.untuned_base(), plan.sampler, requests, draft.unfinished)
        draw_set(stage, trainer, plan.protocol.batch, draft)
        write_requests(draft.path, requests)
    shutil.rmtree(draft.unfinished, ignore_errors=True)


def keep(plans: Sequence[Plan], drafts: Sequence[Draft], step: int, state: State) -> None:
    """Write what a run taught each subject, beside what runs of other experts left there."""
    for plan, draft, part in zip(plans, drafts, plans[0].tuner.part(state, len(plans)), strict=True):
        earlier = [read_snapshot(draft.path, step)] if snapshot_path(draft.path, step).is_file() else []
        write_snapshot(draft.path, step, plan.tuner.join([*earlier, part]), plan.precision)


def learn(plans: Sequence[Plan], zones: Zones, optimizer: OptimizerFactory, drafts: Sequence[Draft]) -> None:
    """One run, its snapshots written into the drafts, one of each subject."""
    plan, names = plans[0], [run_name(plans[0], zones, draft.destination.name) for draft in drafts]
    run = named(names)
    seed_everything(plan.recipe.seed, verbose=False)
    base, selection, route = plan.untuned_base(), Selection(), SubjectsRoute(zones.index, len(zones))
    examples = [encode(each, base) for each in plans]
    learning = plan.tuner.prepare_(base, len(zones), selection, len(plans))
    sentences = [EncodedAnew(base, plan.subject.tuning_text)] if "identifier" in learning else None
    if sentences is None and plan.settings["tuner"]["cache"]:
        base = base.denoiser_alone
    route_(base, route, selection)
    if plan.settings["tuner"]["checkpointing"]:
        base.enable_gradient_checkpointing_()
    stage = TuningStage(base, learning, examples, zones, plan.recipe, optimizer, sentences, route)
    snapshots = Snapshots(plan.tuner, base, plan.steps[1:], partial(keep, plans, drafts), stage.kept)
    grids = [
        SampleGrids(
            partial(served, plan, base, route, place),
            plan.sampler,
            watched(each),
            plan.settings["tuner"]["sample_every"],
            Path(plan.settings["paths"]["logs"]) / "samples" / name,
            stage.kept,
            "samples" if len(plans) == 1 else f"samples/{each.subject.name}",
        )
        for place, (each, name) in enumerate(zip(plans, names, strict=True))
    ]
    fit(plan, stage, run, [Bar(f"tuning {run}"), snapshots, *grids])


def run_name(plan: Plan, zones: Zones, artifact: str) -> str:
    """What curves and grids of an artifact are filed under; an expert that is trained apart has its own."""
    return f"{artifact}-{zones.zones[0].name}" if plan.strategy.apart else artifact


def served(plan: Plan, base: Base, route: SubjectsRoute, place: int) -> Base:
    """The base with all its networks, every row served by the sets of one subject."""
    route.choose(torch.tensor([place]))
    return plan.around(base)


def fit(plan: Plan, stage: TuningStage, run: str, callbacks: list[Callback]) -> None:
    """Train to the last step, curves in the tracker."""
    logger = build(plan.cfg.logger, Logger, run=run)
    trainer = build(plan.cfg.trainer, Trainer, logger=logger, max_steps=plan.recipe.steps, callbacks=callbacks)
    try:
        trainer.fit(stage)
    finally:
        close(logger)


def encode(plan: Plan, base: Base) -> Examples:
    """Latents and texts of everything a run sees; with tuner.cache=false latents are made anew in every step."""
    with torch.no_grad():
        texts = base.encode_prompts([plan.subject.tuning_text, plan.subject.class_text])
    photos, prior = plan.subject.photos, plan.subject.photos[:0]
    if plan.recipe.prior_batch:
        folder = plan.prior.require()
        prior = read_images([folder / request.file for request in read_requests(folder)])
    if plan.settings["tuner"]["flip"]:
        photos, prior = (torch.cat([pictures, pictures.flip(-1)]) for pictures in (photos, prior))
    made = [Anew(base.encode_images, pictures) for pictures in (photos, prior)]
    kept = [once(latents) for latents in made] if plan.settings["tuner"]["cache"] else made
    return Examples(kept[0], texts[:1], kept[1], texts[1:], plan.subject.name)


def watched(plan: Plan) -> list[Request]:
    """Eight prompts of all kinds to watch while tuning."""
    prompts = len(plan.subject.prompts)
    return requests_for(plan.subject, [0], max(1, prompts // 8))[:8]


main = command(tune, "quantbooth", together=tune_all)

if __name__ == "__main__":
    main()
