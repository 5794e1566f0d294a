"""quantbooth-tune: tune a base on photos of its subjects.

quantbooth-tune subject=toy_mug strategy=s2 tuner.steps=200
quantbooth-tune subjects=[toy_mug,toy_duck] strategy=s2
"""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, seed_everything
from omegaconf import DictConfig

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.router import SubjectsRoute, route_
from quantbooth.quant.selection import SetSelection
from quantbooth.run.examples import encode_examples
from quantbooth.run.expected import require_experts, said_of_experts
from quantbooth.run.gradients import make_gradients
from quantbooth.run.models import untuned_base, whole_base, with_untuned_denoiser
from quantbooth.run.offloading import offload_, recordable, require_offload
from quantbooth.run.overfitting import overfitting
from quantbooth.run.previews import previews
from quantbooth.run.processes import following
from quantbooth.run.prompts import require_read
from quantbooth.run.run import Run
from quantbooth.run.stopping import measured_of, require_guard, stops_of
from quantbooth.run.subject_run import SubjectRun
from quantbooth.run.tracking import about, tracker_name
from quantbooth.run.tuner_options import not_read
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.lightning import root_device
from quantbooth.runtime.processes import Share, together
from quantbooth.runtime.profiling import Cost, profile
from quantbooth.runtime.progress import say, say_once
from quantbooth.sampling.generation import collect, generate_missing
from quantbooth.sampling.image_set import Request, prompts_of, write_requests
from quantbooth.sampling.module import SamplingModule, image_jobs
from quantbooth.store.store import joined_label, make_all
from quantbooth.timesteps.zones import Zones
from quantbooth.tuning.callbacks import Checkpoints, Follows, Snapshots
from quantbooth.tuning.checkpoints import Checkpoint, Part, Unfinished
from quantbooth.tuning.curves import Curves
from quantbooth.tuning.encoding import TrainablePrompt
from quantbooth.tuning.files import precision_of, read_snapshot, snapshot_path
from quantbooth.tuning.graphs import ReplayGraphs
from quantbooth.tuning.kept_outputs import KeptOutputs
from quantbooth.tuning.module import TuningModule
from quantbooth.tuning.optimizers import optimizer_factory
from quantbooth.tuning.recipe import OptimizerFactory
from quantbooth.tuning.stopping import Stops
from quantbooth.tuning.teacher import Teacher, frozen_copy
from quantbooth.tuning.tuner import State

__all__ = ["check_job", "job", "require_tuning", "tune"]

UNUSED = ("strength", "unconditional_strength", "reward_guidance", "lora", "scorer", "locator", "dino")
"""Options of drawing the protocol's pictures and of scoring them."""
unused_in = partial(not_read, UNUSED)


def tune(run: Run) -> list[Path]:
    """Tune all subjects that are not tuned yet, in one run; return the tuned artifact of each subject."""
    require_tuning(run)
    optimizer = optimizer_factory(run.settings["optimizer"])
    if not all(one.tuned.find() for one in run.subjects):
        run.trackers("")  # one that cannot be reached ends the run before any work
    return make_all([one.tuned for one in run.subjects], partial(tune_experts, run, optimizer))


def require_tuning(run: Run) -> None:
    """Refuse what tuning cannot do, before any work."""
    run.check("plan", "timestep_sampler", "sampler", "recipe", "steps", "tuner", "stopping", "callbacks", "processes")
    require_offload(run)
    require_read(run)
    require_guard(run)
    require_experts(run)


def tune_experts(run: Run, optimizer: OptimizerFactory, missing: Sequence[int]) -> None:
    """Run one training for all experts, or one per expert with separate runs, with all missing subjects in each."""
    decide_borders(run)
    for line in said_of_experts(run):
        say_once(line)
    subjects = [run.subjects[number] for number in missing]
    if run.recipe.makes_class_pictures:
        for one in subjects:
            one.prior.get_or_make(partial(generate_prior, one))
    with ExitStack() as stack:
        drafts = [stack.enter_context(one.tuned.writing(one.settings)) for one in subjects]
        for draft in drafts:
            draft.contents.update(
                base=run.base_fingerprint, tuner=run.tuner.describe(), strategy=run.strategy.describe()
            )
            draft.contents["timesteps"] = run.timestep_sampler.describe()
        unfinished = Unfinished(drafts)
        with profile() as cost:
            learned = [
                learn_once(run, subjects, number, optimizer, unfinished.part(number))
                for number in range(len(run.strategy.runs))
            ]
            unfinished.collect(run.tuner, len(run.strategy.runs), run.steps[1:], save_precision(run))
        cost.seconds = unfinished.seconds
        fitted = overfitting(run, subjects, [draft.path for draft in drafts])
        ended = [end for one in learned for end in one.get("stopped", ())]
        counted = torch.tensor([one["seen"] for one in learned]).movedim(0, 1).flatten(1).tolist()
        for draft, counts, fit_of in zip(drafts, counted, fitted, strict=True):
            draft.measured.update(costs_of(run, draft.path, cost, len(subjects), counts), **fit_of)
            draft.measured.update(measured_of(run.recipe, ended))
    unfinished.clear()


def decide_borders(run: Run) -> None:
    """Measure the gradients that decide the borders, where they do, and say what they decide."""
    if run.plan.undecided is not None and (artifact := run.only.gradients) is not None:
        make_gradients(run.only, artifact, run.plan.undecided)
        zones = ", ".join(f"[{zone.start}, {zone.stop})" for zone in run.strategy.training_zones.zones)
        say(f"zones of {run.only.name}: {zones}")


def costs_of(run: Run, folder: Path, cost: Cost, subjects: int, seen: Sequence[int]) -> dict[str, Any]:
    """Return the costs of one subject: its share of the seconds of a run, the memory of the run, and what was seen.

    `seen` has the number of samples that each expert was trained on, counted as they were drawn.
    """
    steps = run.recipe.steps
    return {
        "seconds": round(cost.seconds / subjects, 3),
        "peak_memory_bytes": cost.peak_memory_bytes,
        "trainable": sum(tensor.numel() for tensor in read_snapshot(folder, steps).values()),
        "samples_seen": run.recipe.samples_seen * len(run.strategy.runs),
        "samples_per_expert": list(seen),
        "file_bytes": snapshot_path(folder, steps).stat().st_size,
        **({"subjects_together": subjects} if subjects > 1 else {}),
        **({"processes": run.processes} if run.processes > 1 else {}),
    }


def generate_prior(one: SubjectRun) -> None:
    """Generate the class pictures, once per base and class word."""
    run = one.run
    first, count = run.settings["prior"]["seed"], run.settings["prior"]["num_class_images"]
    texts, artifact = one.class_prompts, one.prior
    requests = [
        Request(f"{first + number}.png", text, text, f"prior: {text}", "prior", first + number)
        for number, text in ((number, texts[number % len(texts)]) for number in range(count))
    ]
    trainer = run.trainer(f"generating {artifact.label}", shared=True)
    with artifact.writing(one.settings) as draft:
        base = untuned_base(run, prompts_of(requests))
        offload_(run, base)
        module = SamplingModule(base, run.sampler, image_jobs(requests, draft.unfinished))
        found = generate_missing(module, trainer, run.protocol.batch)
        collect(requests, draft.unfinished, draft.path)
        draft.measured.update(found_drawn=sum(found))
        write_requests(draft.path, requests)
    shutil.rmtree(draft.unfinished, ignore_errors=True)


def save_precision(run: Run) -> torch.dtype:
    return precision_of(run.settings["resources"]["save_dtype"])


def learn_once(
    run: Run, subjects: Sequence[SubjectRun], number: int, optimizer: OptimizerFactory, part: Part
) -> dict[str, Any]:
    """Run one training to its end, from its last checkpoint if there is one; return what was seen, and why it ended."""
    found = part.latest()
    if found is not None and found.step >= run.recipe.steps:
        return found.numbers
    given = (run.settings, [one.settings for one in subjects], number, found)
    with together(run.processes, follow, *given) as share:
        module, stops = learn(run, subjects, number, optimizer, part, found, share)
    numbers = {"seen": module.seen.tolist(), "stopped": [one.ended for one in stops]}
    part.write(run.recipe.steps, {}, numbers)
    return numbers


def learn(
    run: Run,
    subjects: Sequence[SubjectRun],
    number: int,
    optimizer: OptimizerFactory,
    part: Part,
    found: Checkpoint | None,
    share: Share | None,
) -> tuple[TuningModule, list[Stops]]:
    """Run one training and write its snapshots, one per subject; return its module, and what may have stopped it."""
    names = [curve_name(run, run.strategy.runs[number], draft.destination.name) for draft in part.whole.drafts]
    base, module, first = prepared(run, subjects, number, optimizer, share)
    snapshots = Snapshots(run.tuner, base, run.steps[1:], partial(keep, run, part), module.kept)
    stops = stops_of(subjects[0], partial(whole_base, run, base), module, snapshots, found)
    every = run.settings["resources"]["checkpoint_every"]
    checkpoints = Checkpoints(part, module, every, found, {one.name: one for one in stops})
    grids = previews(run, base, module, subjects, names)
    if found is not None:
        say(f"{joined_label(names)} goes on from step {found.step}")
    callbacks = [*first, checkpoints, snapshots, Curves(module), *stops, *grids]
    fit(run, module, names, callbacks, 0 if found is None else found.step)
    return module, stops


def follow(
    share: Share, settings: Mapping[str, Any], subjects: Sequence[Any], number: int, found: Checkpoint | None
) -> None:
    """Run the same training in a further process, which computes its rows of each batch and writes nothing."""
    run = following(share, settings, subjects)
    base, module, first = prepared(run, run.subjects, number, optimizer_factory(run.settings["optimizer"]), share)
    snapshots = Snapshots(run.tuner, base, run.steps[1:], lambda *_: None, module.kept)
    stops = stops_of(run.only, partial(whole_base, run, base), module, snapshots, found) if run.stopping else []
    callbacks: list[Callback] = [*first, Follows(module, found), *stops]
    trained(run, module, "", False, callbacks)


def prepared(
    run: Run, subjects: Sequence[SubjectRun], number: int, optimizer: OptimizerFactory, share: Share | None
) -> tuple[Base, TuningModule, list[Callback]]:
    """Return the base with what learns, its training module, and the first callbacks, before those that draw."""
    resources, zones = run.settings["resources"], run.strategy.runs[number]
    seed_everything(run.recipe.seed, verbose=False)
    base, examples = encode_examples(run, subjects)
    base, selection = with_untuned_denoiser(run, base), SetSelection()
    sets = len(zones) + (run.strategy.wide is not None)
    served = None if run.strategy.separate_runs else run.strategy.route
    route = SubjectsRoute(partial(run.strategy.chosen, zones), sets, len(subjects), served=served)
    untuned = frozen_copy(base.denoiser_alone) if run.recipe.needs_teacher and not run.tuner.has_base else None
    different = 1 if run.strategy.shared_steps else sets  # shared sets start equal
    learning = run.tuner.prepare_(base, different, selection, sets // different * len(subjects))
    distance = run.tuner.distance(base) if run.recipe.pull else None
    sentences = [TrainablePrompt(base, subjects[0].subject.tuning_text)] if "identifier" in learning else None
    route_(base, route, selection)
    if resources["gradient_checkpointing"]:
        base.enable_gradient_checkpointing_()
    for one in filter(None, (base, untuned)):
        offload_(run, one)
    teacher = None
    if run.recipe.needs_teacher:
        teacher = Teacher(base, route) if untuned is None else Teacher(untuned, None)
    parts = (base, learning, examples, zones, run.recipe, optimizer, sentences, route, teacher, distance)
    module = TuningModule(*parts, run.strategy.shared_steps, run.strategy.wide, run.timestep_sampler, share)
    graphs = [ReplayGraphs(base.denoiser, selection)] if recordable(run, base) else []
    return base, module, [KeptOutputs(), *graphs]


def keep(run: Run, part: Part, step: int, state: State) -> None:
    """Write the snapshot of each subject after a step."""
    part.keep(step, run.tuner.part(state, len(part.folders)), save_precision(run))


def curve_name(run: Run, zones: Zones, artifact: str) -> str:
    """Return the name of an artifact's curves and grids; an expert with a separate run has a separate name."""
    return f"{artifact}-{zones.zones[0].name}" if run.strategy.separate_runs else artifact


def fit(run: Run, module: TuningModule, names: Sequence[str], callbacks: list[Callback], step: int) -> None:
    """Train from a step to the last one and log the curves."""
    name = joined_label(names)
    trackers = run.trackers(tracker_name(names), partial(about, run), step)
    try:
        trained(run, module, f"tuning {name}", trackers, [*callbacks, *run.callbacks])
    finally:
        run.release(trackers)


def trained(run: Run, module: TuningModule, what: str, trackers: Any, callbacks: list[Callback]) -> None:
    """Train to the last step, in step with other processes if there are any.

    Raises:
        UserError: when Lightning refuses a callback or an option, and when a callback ended the training.
    """
    given = {"logger": trackers, "max_steps": run.recipe.steps, "callbacks": callbacks, "share": module.share}
    trainer: Trainer = run.trainer(what, tuning=True, **given)
    if module.share is not None:
        module.share.meet(root_device(trainer))
    try:
        trainer.fit(module)
    except MisconfigurationException as error:
        reason = str(error).rstrip(".!")
        raise UserError(f"Lightning refuses the tuning: {reason}; change callbacks or trainer.* options") from error
    last = min([run.recipe.steps, *(one.at for one in callbacks if isinstance(one, Stops))])
    if trainer.global_step < last:
        raise UserError(
            f"a callback ended the tuning after step {trainer.global_step} of {last}; leave it out, and choose "
            "tuner.steps or tuner.stopping.* options"
        )


def check_job(cfg: DictConfig) -> None:
    """Refuse what the job cannot do, before the first job of a sweep."""
    require_tuning(Run(cfg))


def job(cfg: DictConfig) -> list[Path]:
    """Run the command on one configuration."""
    return tune(Run(cfg))
