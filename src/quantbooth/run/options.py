"""Options of tuning as a recipe: each is what it must be, or refused by its name."""

from collections.abc import Mapping
from typing import Any

from quantbooth.runtime.options import flag, number, whole
from quantbooth.tuning.module import Recipe

__all__ = ["recipe_of", "tuner_options"]

RATES = {"shifts": "shift_learning_rate", "identifier": "identifier_learning_rate"}
"""Options of the tuner that are learning rates of one kind of numbers; the others learn at the optimizer's."""


def tuner_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the group `tuner`, its switches looked at.

    Raises:
        UserError: naming the option that is neither true nor false.
    """
    tuner = dict(settings["tuner"])
    for option in ("checkpointing", "cache", "flip"):
        flag(f"tuner.{option}", tuner[option])
    return tuner


def recipe_of(settings: Mapping[str, Any]) -> Recipe:
    """Return how a run learns.

    Raises:
        UserError: naming the option that is not such a number.
    """
    tuner, prior = settings["tuner"], settings["prior"]
    whole("tuner.sample_every", tuner["sample_every"], least=0)
    rates = {kind: number(f"tuner.{key}", tuner[key], least=0) for kind, key in RATES.items() if key in tuner}
    whole("prior.seed", prior["seed"], least=0)
    whole("prior.count", prior["count"], least=1 if prior["batch"] else 0)
    return Recipe(
        steps=tuner["steps"],
        subject_batch=tuner["subject_batch"],
        prior_batch=prior["batch"],
        prior_weight=prior["weight"],
        weight_bound=tuner["weight_bound"],
        decay=tuner["decay"],
        seed=settings["seed"],
        average=tuner["average"],
        rates=rates,
    )
