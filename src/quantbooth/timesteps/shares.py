"""Shares of scale sets: what each sees of the samples of training, and at which timesteps of a sampler it is used.

A run draws its timesteps from the density q of its zones. In a share s of its steps all experts are one set:

    seen_k(t) = q(t) (s + (1 - s) [t in the zone of k]),       and q(t) [t in the wide interval] of the wide set
"""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from quantbooth.timesteps.samplers import TimestepSampler
from quantbooth.timesteps.strategies import Strategy

__all__ = ["seen", "serving"]


def seen(strategy: Strategy, sampler: TimestepSampler, shared: float) -> Float[Tensor, "sets timesteps"]:
    """Return the samples that each set is expected to see at each timestep, as shares of those of its run, in float64.

    Args:
        strategy: the zones of its sets.
        sampler: what the timesteps of each run are drawn by.
        shared: the share s of optimizer steps in which all experts are one set.

    Raises:
        UserError: when nothing would be drawn in the zones of a run.
    """
    t, rows = torch.arange(strategy.training_zones.timesteps), []
    for zones in strategy.runs:
        density, index = sampler.density(zones), zones.index(t)
        if strategy.wide is not None:
            rows.append(density * ((t >= strategy.wide.start) & (t < strategy.wide.stop)))
        rows += [density * (shared + (1 - shared) * (index == number)) for number in range(1, len(zones) + 1)]
    return torch.stack(rows)


def serving(strategy: Strategy, timesteps: Shaped[Tensor, " steps"]) -> Bool[Tensor, "steps sets"]:
    """Return whether each set acts at each timestep, which may be fractional."""
    chosen = strategy.route(timesteps)
    if chosen.is_floating_point():
        return chosen > 0
    return chosen[:, None] == torch.arange(1, strategy.sets + 1)
