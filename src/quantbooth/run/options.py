"""Options as objects where several have to agree: the recipe of tuning, the sampler."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from quantbooth.diffusion.pretrained import check_base, check_sampler
from quantbooth.diffusion.sampler import Sampler
from quantbooth.runtime.config import build
from quantbooth.runtime.errors import UserError
from quantbooth.tuning.module import Recipe
from quantbooth.tuning.optimizers import optimizer_factory

__all__ = ["base_folder_of", "recipe_of", "sampler_of"]

RATES = {"shifts": "shift_learning_rate", "identifier": "identifier_learning_rate"}
"""Tuner options with the learning rate of one kind of parameter; the other kinds use the optimizer's."""


def recipe_of(settings: Mapping[str, Any]) -> Recipe:
    """Return the hyperparameters of a training run.

    Raises:
        UserError: when batches hold class pictures and there are none, or the optimizer refuses its options.
    """
    optimizer_factory(settings["optimizer"])  # tests them, before any work
    tuner, prior = settings["tuner"], settings["prior"]
    if prior["class_batch_size"] and not prior["num_class_images"]:
        raise UserError(
            f"prior.num_class_images must be 1 or more with prior.class_batch_size={prior['class_batch_size']}, got 0; "
            "choose prior=none to do without"
        )
    return Recipe(
        steps=tuner["steps"],
        train_batch_size=tuner["train_batch_size"],
        class_batch_size=prior["class_batch_size"],
        prior_loss_weight=prior["loss_weight"],
        loss_weight_max=tuner["loss_weight_max"],
        lr_scheduler=tuner["lr_scheduler"],
        seed=settings["seed"],
        ema_decay=tuner["ema_decay"],
        rates={kind: float(tuner[key]) for kind, key in RATES.items() if key in tuner},
    )


def base_folder_of(cfg: DictConfig) -> Path:
    """Return the base's folder, whose configuration files agree with the options of the base.

    Raises:
        UserError: when they do not, before a single file is converted where base.config is a folder.
    """
    resolution, timesteps, config = cfg.base.resolution, cfg.base.timesteps, cfg.base.get("config")
    if config is not None and Path(config).expanduser().is_dir():
        check_base(Path(config).expanduser(), resolution, timesteps)
    folder = build(cfg.base.folder, Path)
    check_base(folder, resolution, timesteps)
    return folder


def sampler_of(cfg: DictConfig, base_folder: Path) -> Sampler:
    """Return the sampler.

    Raises:
        UserError: when it has more steps than the base has timesteps, or cannot honour the base's scheduler.
    """
    sampler, most = build(cfg.sampler, Sampler), cfg.base.timesteps
    if sampler.steps > most:
        raise UserError(f"sampler.steps must be at most base.timesteps = {most}, got {sampler.steps}")
    check_sampler(base_folder, sampler.scheduler, sampler.steps)
    return sampler
