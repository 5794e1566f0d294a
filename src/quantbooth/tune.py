"""quantbooth-tune: a base learns a subject.

quantbooth-tune subject=toy_mug strategy=s2 tuner.steps=200
"""

import shutil
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from torch import nn

from quantbooth.artifacts.image_set import Request, read_images, read_requests, requests_for, write_requests
from quantbooth.artifacts.tuned import read_snapshot, snapshot_path, write_snapshot, write_strategy
from quantbooth.cli import command
from quantbooth.config import build, factory
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.router import route_unet_
from quantbooth.diffusion.schedule import Schedule
from quantbooth.errors import UserError
from quantbooth.plan import Plan
from quantbooth.quant.selection import Selection
from quantbooth.stages.callbacks import Keep, SampleGrids, Snapshots
from quantbooth.stages.costs import measured
from quantbooth.stages.drawing import draw_set
from quantbooth.stages.latents import Anew, once
from quantbooth.stages.loggers import close
from quantbooth.stages.progress import Bar
from quantbooth.stages.sampling import SamplingStage
from quantbooth.stages.sentences import EncodedAnew
from quantbooth.stages.tuners import State
from quantbooth.stages.tuning import Examples, OptimizerFactory, TuningStage
from quantbooth.timesteps.zones import Zones

__all__ = ["main", "tune"]


def tune(cfg: DictConfig) -> Path:
    """Tune on the subject's photos, every expert of the strategy; return the folder of what was learned."""
    plan, optimizer = Plan(cfg), optimizer_of(cfg)
    if found := plan.tuned.find():
        return found
    recipe = plan.recipe
    if recipe.prior_batch:
        draw_prior(plan)
    with plan.tuned.writing(plan.settings) as draft:
        write_strategy(draft.path, plan.strategy)
        with measured() as cost:
            for zones in plan.strategy.runs:
                learn(plan, zones, optimizer, draft.destination.name, partial(keep, plan, draft.path))
        draft.measured.update(
            seconds=round(cost.seconds, 3),
            peak_memory_bytes=cost.peak_memory_bytes,
            trainable=sum(tensor.numel() for tensor in read_snapshot(draft.path, recipe.steps).values()),
            samples_seen=recipe.samples_seen * len(plan.strategy.runs),
            samples_per_expert=recipe.samples_seen * len(plan.strategy.runs) / plan.strategy.sets,
            file_bytes=snapshot_path(draft.path, recipe.steps).stat().st_size,
        )
    return plan.tuned.require()


def optimizer_of(cfg: DictConfig) -> OptimizerFactory:
    """The optimizer, tried on one number before any work starts.

    Raises:
        UserError: when it refuses its options.
    """
    optimizer = factory(cfg.optimizer)
    try:
        optimizer([{"params": [nn.Parameter(torch.zeros(1))]}])
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer {cfg.optimizer._target_} refuses its options: {error}") from error
    return optimizer


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


def keep(plan: Plan, folder: Path, step: int, state: State) -> None:
    """Write what a run learned, beside what runs of other experts left there."""
    earlier = [read_snapshot(folder, step)] if snapshot_path(folder, step).is_file() else []
    write_snapshot(folder, step, plan.tuner.join([*earlier, state]), plan.precision)


def learn(plan: Plan, zones: Zones, optimizer: OptimizerFactory, name: str, kept: Keep) -> None:
    """One run, its snapshots handed to `kept`; `name` is what curves and grids are filed under."""
    recipe, run = plan.recipe, f"{name}-{zones.zones[0].name}" if plan.strategy.apart else name
    seed_everything(recipe.seed, verbose=False)
    base, selection = plan.untuned_base(), Selection()
    examples = encode(plan, base)
    learning = plan.tuner.prepare_(base, len(zones), selection)
    sentence = EncodedAnew(base, plan.subject.tuning_text) if "identifier" in learning else None
    if sentence is None and plan.settings["tuner"]["cache"]:
        base = base.unet_alone
    route_unet_(base.unet, zones.index, selection)
    if plan.settings["tuner"]["checkpointing"]:
        base.unet.enable_gradient_checkpointing()
    schedule = Schedule(base.scheduler_config)
    stage = TuningStage(base.unet, learning, examples, zones, schedule, recipe, optimizer, sentence)
    bar = Bar(f"tuning {run}")
    snapshots = Snapshots(plan.tuner, base, plan.steps[1:], kept, stage.kept)
    logger = build(plan.cfg.logger, Logger, run=run)
    grids = SampleGrids(
        partial(plan.around, base),
        plan.sampler,
        watched(plan),
        plan.settings["tuner"]["sample_every"],
        Path(plan.settings["paths"]["logs"]) / "samples" / run,
        stage.kept,
    )
    trainer = build(plan.cfg.trainer, Trainer, logger=logger, max_steps=recipe.steps, callbacks=[bar, snapshots, grids])
    try:
        trainer.fit(stage)
    finally:
        close(logger)


def encode(plan: Plan, base: Base) -> Examples:
    """Latents and texts of everything a run sees; with tuner.cache=false latents are made anew in every step."""
    with torch.no_grad():
        texts = base.encode_texts([plan.subject.tuning_text, plan.subject.class_text])
    photos, prior = plan.subject.photos, plan.subject.photos[:0]
    if plan.recipe.prior_batch:
        folder = plan.prior.require()
        prior = read_images([folder / request.file for request in read_requests(folder)])
    if plan.settings["tuner"]["flip"]:
        photos, prior = (torch.cat([pictures, pictures.flip(-1)]) for pictures in (photos, prior))
    made = [Anew(base.encode_images, pictures) for pictures in (photos, prior)]
    kept = [once(latents) for latents in made] if plan.settings["tuner"]["cache"] else made
    return Examples(kept[0], texts[0], kept[1], texts[1])


def watched(plan: Plan) -> list[Request]:
    """Eight prompts of all kinds to watch while tuning."""
    prompts = len(plan.subject.prompts)
    return requests_for(plan.subject, [0], max(1, prompts // 8))[:8]


main = command(tune, "quantbooth")

if __name__ == "__main__":
    main()
