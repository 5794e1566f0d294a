"""Several subjects in one base: each has scale sets of its own there, side by side, and rows of its own in a batch."""

from collections.abc import Sequence

from quantbooth.artifacts.tuned import read_snapshot
from quantbooth.diffusion.base import Base
from quantbooth.diffusion.router import SubjectsRoute, route_
from quantbooth.errors import UserError
from quantbooth.plan import Plan
from quantbooth.quant.selection import Selection

__all__ = ["Served", "base_of", "named", "require_together"]

Served = tuple[Base, SubjectsRoute | None]
"""A base to draw with, and the route that is to be told whose row is whose; None where it needs no telling."""


def require_together(plans: Sequence[Plan]) -> None:
    """Refuse several subjects where the tuner holds what learns only once.

    Raises:
        UserError: saying which options do.
    """
    tuner = plans[0].tuner
    if len(plans) > 1 and not tuner.together:
        raise UserError(
            "several subjects learn together by scales or adapters, each with sets of its own; float weights and the "
            "identifier are there once: choose tuner=scales, lora or qlora with tuner.identifier=false, or sweep over "
            "the subjects with -m"
        )


def base_of(plans: Sequence[Plan], step: int) -> Served:
    """The base as tuned on each of the subjects after a step, and the route to be told whose row is whose.

    One subject, or the untuned base (step 0), needs no such route.

    Raises:
        UserError: when a step was not kept, or what was tuned belongs to another base.
    """
    plan = plans[0]
    if step == 0 or len(plans) == 1:
        return plan.tuned_base(step), None
    require_together(plans)
    base, selection, sets = plan.untuned_base(), Selection(), plan.strategy.sets
    for each in plans:
        each.require_same_base()
    state = plan.tuner.join([read_snapshot(each.tuned.require(), step) for each in plans])
    plan.tuner.load_(base, state, sets * len(plans), selection)
    route = SubjectsRoute(plan.strategy.route, sets)
    route_(base, route, selection)
    return base, route


def named(names: Sequence[str]) -> str:
    """The first of several names, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]}-and-{len(names) - 1}-more"
