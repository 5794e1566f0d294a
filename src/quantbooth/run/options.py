"""What several options decide together: the recipe of tuning, the name of a method."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from quantbooth.data.subjects import Subject
from quantbooth.diffusion.base import Base
from quantbooth.kinds import shown
from quantbooth.quant import adapters
from quantbooth.quant.group_gains import require_groups
from quantbooth.quant.scale_sets import norms_of
from quantbooth.quant.surgery import matching
from quantbooth.run.calibration import Calibration
from quantbooth.run.tuner_options import require_used
from quantbooth.runtime.config import build
from quantbooth.runtime.errors import UserError
from quantbooth.store.files import require_place
from quantbooth.store.store import slugify
from quantbooth.timesteps.samplers import TimestepSampler, Uniform
from quantbooth.timesteps.strategies import BASELINE, Strategy
from quantbooth.tuning.optimizers import optimizer_factory
from quantbooth.tuning.rates import Rates
from quantbooth.tuning.recipe import Recipe
from quantbooth.tuning.tuner import Tuner
from quantbooth.tuning.tuners import IdentifierTuner

__all__ = [
    "method_name",
    "recipe_of",
    "require_parts",
    "require_places",
    "require_untouched",
    "strategy_of",
    "timestep_sampler_of",
    "tuner_of",
]

OF_PICTURES = (
    *("prompt", "scale_sets", "strength", "unconditional_strength", "reward_guidance", "negative_prompt", "lora"),
)
"""Options of generated pictures, which a measurement of the base as it is does not use."""
RATES = {
    "shifts": "shift_learning_rate",
    "adapters": "adapter_learning_rate",
    "identifier": "identifier_learning_rate",
}
"""Tuner options with the learning rate of one kind of parameter; the other kinds use the optimizer's."""

NAMED = {"scales_shifts": ("biases", "norms")}
"""What learns besides gains or adapters, where the name of the tuner says so."""


def recipe_of(settings: Mapping[str, Any]) -> Recipe:
    """Return the hyperparameters of a training run.

    Raises:
        UserError: when batches hold class pictures and there are none, the optimizer refuses its options, gradients are
            to be clipped to nothing, or the tuner does not use an option.
    """
    optimizer_factory(settings["optimizer"])  # tests them, before any work
    tuner, prior = settings["tuner"], settings["prior"]
    require_used(settings)
    _check_prior(prior)
    clipping = {key: settings["trainer"].get(f"gradient_clip_{key}") for key in ("val", "algorithm")}
    if clipping["algorithm"] and not clipping["val"]:
        raise UserError(
            f"trainer.gradient_clip_algorithm={clipping['algorithm']} needs trainer.gradient_clip_val > 0, "
            f"got {shown(clipping['val'])}"
        )
    return Recipe(
        steps=tuner["steps"],
        train_batch_size=tuner["train_batch_size"],
        class_batch_size=prior["class_batch_size"],
        num_class_images=prior["num_class_images"],
        prior_loss_weight=prior["loss_weight"],
        loss_weight_max=tuner["loss_weight_max"],
        lr_scheduler=_rates_of(tuner),
        seed=settings["seed"],
        ema_decay=tuner["ema_decay"],
        accumulate_grad_batches=settings["trainer"].get("accumulate_grad_batches", 1),
        clips_norms=bool(clipping["val"]) and clipping["algorithm"] != "value",
        distills=prior["target"] == "base",
        dco_beta=tuner["dco_beta"],
        pull=float(tuner["pull"]),
        rates={kind: float(tuner[key]) for kind, key in RATES.items() if key in tuner},
    )


def _rates_of(tuner: Mapping[str, Any]) -> Rates:
    """Return the learning-rate schedule; options of earlier versions have its name alone.

    Raises:
        UserError: when it has no use for an option, or the whole run would be warm-up.
    """
    given = {key: tuner[f"lr_{key}"] for key in ("warmup_steps", "num_cycles", "power") if f"lr_{key}" in tuner}
    rates = Rates(tuner["lr_scheduler"], **given)
    if rates.warmup_steps >= tuner["steps"]:
        raise UserError(
            f"tuner.lr_warmup_steps={rates.warmup_steps} must be less than tuner.steps={tuner['steps']}; "
            "take fewer, or leave it out"
        )
    return rates


def _check_prior(prior: Mapping[str, Any]) -> None:
    """Refuse options of the prior that contradict each other."""
    batch, distills = prior["class_batch_size"], prior["target"] == "base"
    if batch and not prior["num_class_images"] and not distills:
        raise UserError(
            f"prior.num_class_images must be 1 or more with prior.class_batch_size={batch}, got 0; "
            "choose prior=none to do without, or prior.target=base to use the photos"
        )
    if batch and not prior["loss_weight"]:
        raise UserError(
            f"prior.loss_weight={shown(prior['loss_weight'])} leaves prior.class_batch_size={batch} class rows without "
            "effect; choose prior=none alone to do without"
        )
    if prior["seed"] and not prior["num_class_images"]:
        raise UserError(
            f"prior.seed={prior['seed']} is of class pictures, got prior.num_class_images=0; leave out the seed, or "
            "choose prior=generated or prompted"
        )
    given = {"target": distills, **{key: prior[key] for key in ("class_prompts", "loss_weight", "num_class_images")}}
    for option in (option for option, value in given.items() if value and not batch):
        raise UserError(
            f"prior.{option}={shown(prior[option])} needs class rows in each batch, got prior.class_batch_size=0; "
            "choose prior=none alone to do without"
        )


def tuner_of(cfg: DictConfig, subjects: Sequence[Subject], recipe: Recipe) -> Tuner:
    """Return the tuner.

    Raises:
        UserError: when several subjects cannot share a run of it.
    """
    tuner = build(cfg.tuner.learner, Tuner)
    if cfg.tuner.identifier:
        tuner = IdentifierTuner(tuner, subjects[0].tuning_text, subjects[0].class_text)
    if len(subjects) > 1 and not tuner.by_sample:
        raise UserError(
            "subjects=[a,b] shares a run by scales or adapters, each subject with separate sets; choose "
            "tuner=scales, lora or qlora with tuner.identifier=false, or -m subject=a,b for a run each"
        )
    if len(subjects) > 1 and recipe.clips_norms:
        raise UserError(
            "trainer.gradient_clip_val would clip the norm over all subjects of subjects=[a,b]; choose "
            "trainer.gradient_clip_algorithm=value, or -m subject=a,b for a run each"
        )
    return tuner


def require_parts(base: Base, kind: str, settings: Mapping[str, Any], calibration: Calibration) -> None:
    """Check what a tuner adds to the layers of the base's denoiser, before its weights are read.

    Args:
        base: without weights.
        kind: of the tuner's artifacts.
        settings: the options.
        calibration: with the patterns of quantized layers.

    Raises:
        UserError: when `tuner.group_size` divides no layer that gains are of, or not every layer that is adapted; when
            there is no normalization for `tuner.norms`, or no bias for `tuner.biases`.
    """
    tuner, network = settings["tuner"], base.denoiser
    size, norms, biases = (tuner.get(key) for key in ("group_size", "norms", "biases"))
    if norms:
        norms_of(network, base.family.rowless_layers)
    if size is not None and kind == "adapters":
        adapters.require_forms(network, adapters.targets(network, tuner["include"], tuner["exclude"]), size)
    elif (size is not None or biases) and not calibration.stored:
        include, exclude = calibration.layers
        layers = [(name, network.get_submodule(name)) for name in matching(network, include, exclude)]
        if size is not None:
            require_groups(layers, size)
        if biases and all(layer.bias is None for _, layer in layers):
            raise UserError(
                f"tuner.biases=true shifts biases, and no quantized layer of this {type(network).__name__} has one; "
                "set tuner.biases=false"
            )


def strategy_of(cfg: DictConfig, recipe: Recipe) -> Strategy:
    """Return the strategy.

    Raises:
        UserError: when it is not of the base's timesteps and the tuner's steps, or norms of gradients are clipped in
            shared steps.
    """
    strategy, timesteps = build(cfg.strategy, Strategy), cfg.base.timesteps
    if strategy.training_zones.timesteps != timesteps:
        raise UserError(
            f"strategy.timesteps must be base.timesteps = {timesteps}, got {strategy.training_zones.timesteps}"
        )
    if (steps := cfg.strategy.get("steps", recipe.steps)) != recipe.steps:
        raise UserError(f"strategy.steps must be tuner.steps = {recipe.steps}, got {steps}")
    if strategy.shared_steps and recipe.clips_norms:
        raise UserError(
            f"trainer.gradient_clip_val would clip the norm over all copies of the set of strategy.shared_steps="
            f"{strategy.shared_steps}; choose trainer.gradient_clip_algorithm=value, or strategy.shared_steps=0"
        )
    return strategy


def timestep_sampler_of(cfg: DictConfig, strategy: Strategy) -> TimestepSampler:
    """Return what training timesteps are drawn by; options of earlier versions have none.

    Raises:
        UserError: when nothing would be drawn in a run of the strategy.
    """
    sampler = build(cfg.timesteps, TimestepSampler) if "timesteps" in cfg else Uniform()
    for zones in strategy.runs:
        sampler.density(zones)
    return sampler


def require_untouched(settings: Mapping[str, Any], command: str) -> None:
    """Refuse options of generated pictures, for a command that measures the base as it is.

    Raises:
        UserError: for the first one that is given.
    """
    for option in OF_PICTURES:
        if (value := settings[option]) not in (None, "", [], 1):
            raise UserError(
                f"{option}={shown(value)} has no effect on {command}, which draws by the base alone; leave it out"
            )


def require_places(settings: Mapping[str, Any], group: str) -> None:
    """Refuse a folder or document of a group where no file can be written, before the work that they tell of.

    Raises:
        UserError: for the first one.
    """
    folder, page = (Path(settings[group][key]).expanduser() for key in ("folder", "document"))
    require_place(folder / "document", f"{group}.folder")
    require_place(page, f"{group}.document")


def method_name(tuner: Tuner, strategy: Strategy, quantized: bool, settings: Mapping[str, Any]) -> str:
    """Return a name for tables: float or the strategy, the tuner's name where it is not its class's, and the tag.

    Adapters have the tuner's name alone (lora, qlora), after the strategy (s2-qlora) where that is not the baseline.
    What learns beyond the tuner's name follows it (baseline-norms, baseline-scales_in_out-identifier).
    """
    name, tag = settings["tuner"]["name"], settings["tag"]
    if tuner.kind == "adapters":
        parts = [None if strategy.name == BASELINE else strategy.name, slugify(name)]
    else:
        first = strategy.name if quantized else "float"
        parts = [first, None if name == tuner.name else slugify(name)]
    parts += _beyond(settings["tuner"], tuner.kind)
    return "-".join(part for part in (*parts, None if tag is None else slugify(str(tag))) if part is not None)


def _beyond(tuner: Mapping[str, Any], kind: str) -> list[str]:
    """Return what learns, or does not, beyond what the tuner's name says."""
    named = NAMED.get(tuner["name"], ())
    learns = {key: bool(tuner.get(key)) for key in ("biases", "norms", "identifier")}
    found = [key if on else f"no-{key}" for key, on in learns.items() if on != (key in named)]
    grouped = kind == "scale_sets" and tuner.get("group_size") is not None
    return [*([f"groups{tuner['group_size']}"] if grouped else []), *found]
