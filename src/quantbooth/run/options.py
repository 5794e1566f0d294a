"""Options of tuning: validated, and converted to a recipe."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from quantbooth.runtime.errors import UserError
from quantbooth.runtime.options import flag, number, whole
from quantbooth.schema import FIELDS, OPEN, RENAMED
from quantbooth.tuning.files import precision_of
from quantbooth.tuning.module import Recipe

__all__ = ["check_resources", "recipe_of", "require_known"]

RATES = {"shifts": "shift_learning_rate", "identifier": "identifier_learning_rate"}
"""Tuner options with the learning rate of one kind of parameter; the other kinds use the optimizer's."""


def require_known(settings: Mapping[str, Any]) -> None:
    """Refuse unknown options: for a renamed one name the new name, for others the nearest known one.

    Raises:
        UserError: naming the option.
    """
    for old, new in RENAMED.items():
        if _has(settings, old.split(".")):
            raise UserError(f"option '{old}' has another name: {new}")
    for group, fields in FIELDS.items():
        if "." in group or group in OPEN or group not in settings:
            continue
        for key in settings[group]:
            if key not in fields and not key.startswith("_"):
                near = difflib.get_close_matches(key, fields, 1)
                meant = f" (did you mean '{group}.{near[0]}'?)" if near else ""
                raise UserError(f"unknown option '{group}.{key}'{meant}; --cfg job shows all options")


def _has(node: Any, keys: Sequence[str]) -> bool:
    """Return whether there is an option at these keys."""
    first, *others = keys
    inside = isinstance(node, Mapping) and first in node
    return inside and (not others or _has(node[first], others))


def check_resources(settings: Mapping[str, Any]) -> None:
    """Check the options of resources and preview.

    Raises:
        UserError: naming an option that is not a valid value.
    """
    for option in ("gradient_checkpointing", "cache_latents"):
        flag(f"resources.{option}", settings["resources"][option])
    if settings["resources"]["checkpoint_every"] is not None:
        number("resources.checkpoint_every", settings["resources"]["checkpoint_every"], least=0)
    precision_of(settings["resources"]["save_dtype"])
    whole("preview.validation_steps", settings["preview"]["validation_steps"], least=0)


def recipe_of(settings: Mapping[str, Any]) -> Recipe:
    """Return the hyperparameters of a training run.

    Raises:
        UserError: naming an option that is not a valid value.
    """
    tuner, prior = settings["tuner"], settings["prior"]
    flag("tuner.random_flip", tuner["random_flip"])
    rates = {kind: number(f"tuner.{key}", tuner[key], least=0) for kind, key in RATES.items() if key in tuner}
    whole("prior.seed", prior["seed"], least=0)
    whole("prior.num_class_images", prior["num_class_images"], least=1 if prior["class_batch_size"] else 0)
    return Recipe(
        steps=tuner["steps"],
        train_batch_size=tuner["train_batch_size"],
        class_batch_size=prior["class_batch_size"],
        prior_loss_weight=prior["loss_weight"],
        loss_weight_max=tuner["loss_weight_max"],
        lr_scheduler=tuner["lr_scheduler"],
        seed=settings["seed"],
        ema_decay=tuner["ema_decay"],
        rates=rates,
    )
