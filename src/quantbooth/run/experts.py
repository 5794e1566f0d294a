"""What each expert will see and do: the share of training samples in its zone, and whether a sampler ever uses it."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.sampler import Sampler
from quantbooth.run.strength import Strength
from quantbooth.runtime.errors import UserError
from quantbooth.timesteps.samplers import TimestepSampler, Uniform
from quantbooth.timesteps.shares import seen
from quantbooth.timesteps.strategies import Strategy
from quantbooth.timesteps.zones import Zones

__all__ = ["few_samples", "left_out", "not_drawn", "require_decidable", "sampled_timesteps", "unused"]

UNIFORM = Uniform()
NONE = 1e-12
"""Share of the samples of a run that is none for any number of steps."""


def sampled_timesteps(base: Base, sampler: Sampler) -> Shaped[Tensor, " steps"]:
    """Return the training timesteps of a sampler, after running it on one number.

    Raises:
        UserError: when the scheduler cannot do this number of steps on the base's noise schedule, or they are not as
            many different timesteps in [0, T).
    """
    asked = f"sampler.steps={sampler.steps} is not possible with sampler.scheduler={sampler.scheduler} on {base.name}"
    try:
        scheduler = base.new_scheduler(sampler.scheduler, sampler.steps)
        x = torch.ones(1, 1, 1, 1)
        for t in scheduler.timesteps:
            scheduler.scale_model_input(x, t)  # some schedulers find their place there
            x = scheduler.step(torch.zeros_like(x), t, x).prev_sample
    except UserError:
        raise
    except (ValueError, IndexError, RuntimeError, ZeroDivisionError, TypeError) as error:
        raise UserError(f"{asked}: {' '.join(str(error).split())}; choose another number of steps") from error
    found = scheduler.timesteps
    inside = found[(found >= 0) & (found < base.timesteps)].unique()
    if len(inside) != sampler.steps or len(inside) < len(found.unique()):
        raise UserError(
            f"{asked}, whose timesteps are {len(inside)} different ones in [0, {base.timesteps}); choose fewer steps"
        )
    if not x.isfinite().all():
        raise UserError(f"{asked}: it ends in {float(x):g}; choose another number of steps")
    return found


def require_decidable(quantized: bool, subjects: Sequence[str] | None) -> None:
    """Refuse borders by gradients for float weights, and for several subjects, which share the zones of a run."""
    if not quantized:
        raise UserError(
            "strategy=adaptive compares gradients of a quantized base, got quant=fp; choose quant=w8, w4, w3 or w2"
        )
    if subjects is not None and len(subjects) > 1:
        listed = ",".join(subjects)
        raise UserError(
            f"strategy=adaptive has borders for each subject, subjects=[{listed}] share those of one run; choose "
            f"-m subject={listed}, or strategy=s2"
        )


def unused(strategy: Strategy, timesteps: Shaped[Tensor, " steps"]) -> Iterator[str]:
    """Yield a line for each expert at which a sampler has no timestep.

    Raises:
        UserError: when each timestep is served by the base, so that pictures would be those of the untuned base.
    """
    count = len(timesteps.unique())
    found = [f"none of the {count} timesteps of the sampler is in {zone}" for zone in left_out(strategy, timesteps)]
    if not strategy.route(timesteps).any():
        raise UserError(f"{found[0]}, so the untuned base alone would draw; raise sampler.steps, or widen the zone")
    for one in found:
        yield f"warning: {one}, so its expert is never used; raise sampler.steps, or widen the zone"


def not_drawn(strategy: Strategy, strength: Strength, timesteps: Shaped[Tensor, " steps"]) -> Iterator[str]:
    """Yield a line for each expert, and each interval of `strength`, that a sampler does not use.

    Raises:
        UserError: as `unused`, and where the intervals of `strength` leave the untuned base at each timestep.
    """
    yield from unused(strategy, timesteps)
    count = len(timesteps.unique())
    if strength.by_interval and not strength.route(strategy)(timesteps).any():
        raise UserError(
            f"strength leaves the untuned base at each of the {count} timesteps of the sampler; name an interval in "
            f"which {strategy.name} uses a set, or choose strength=0"
        )
    for interval in strength.without_steps(strategy, timesteps):
        yield (
            f"warning: none of the {count} timesteps of the sampler at which {strategy.name} uses a set is in "
            f"{interval} of strength, so that it changes nothing; raise sampler.steps, or widen the interval"
        )


def left_out(strategy: Strategy, timesteps: Shaped[Tensor, " steps"]) -> list[Zones]:
    """Return the zones of the experts at which a sampler has no timestep."""
    used, zones = set(strategy.sampling_zones.index(timesteps).tolist()), strategy.sampling_zones
    return [zones.named(name) for number, name in enumerate(zones.names, start=1) if number not in used]


def few_samples(strategy: Strategy, samples: int, steps: int, sampler: TimestepSampler = UNIFORM) -> Iterator[str]:
    """Yield a line for each expert that expects less than half of an even share of the samples of a run.

    Each sample of a shared step is one of every expert.

    Raises:
        UserError: for an expert that would see none in any number of steps.
    """
    shared = strategy.shared_steps / steps
    if strategy.sets > 1 and shared == 1:
        yield f"warning: strategy.shared_steps={steps} is all of tuner.steps, so the experts stay equal; lower it"
    even = samples * (shared + (1 - shared) / len(strategy.runs[0]))
    of_experts = seen(strategy, sampler, shared)[0 if strategy.wide is None else 1 :].sum(dim=1)
    for name, share in zip(strategy.training_zones.names, of_experts.tolist(), strict=True):
        if (expected := samples * share) < max(1, even / 2):
            zone = strategy.training_zones.named(name)
            if share < NONE:
                raise UserError(
                    f"timesteps has no weight in {zone}, so its expert would see no sample; choose another density or "
                    "other zones"
                )
            advice = "strategy.apart=true gives each a run of its own"
            if expected < 1:
                advice = "raise tuner.steps"
            elif shared or strategy.wide is not None:  # strategies without the option
                advice = "raise strategy.shared_steps" if shared else "widen the zone"
            about = f"the expert of {zone} will see about {expected:.3g} of {samples} samples"
            yield f"warning: {about}, an even share is {even:.4g}; {advice}"
