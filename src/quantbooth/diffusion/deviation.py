"""Prediction errors on held-out (x_t, t, c): how far a base is from its target, and from another base."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.model import NoiseSchedule
from quantbooth.timesteps.zones import Zone

__all__ = ["mean_square", "predict", "spread_timesteps"]


def predict(
    base: Base,
    schedule: NoiseSchedule,
    x_0: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    t: Int[Tensor, " b"],
    conditioning: Conditioning,
) -> Float[Tensor, "b c h w"]:
    """Return the prediction at x_t, which the schedule makes of x_0 and noise (DDPM, eq. 4), in float32 at least."""
    return base.predict(schedule.add_noise(x_0, noise, t), t, conditioning).float()


def mean_square(one: Float[Tensor, "b c h w"], other: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Per sample: mean of (one - other)^2.

    Of a prediction and its target this is the loss of LDM, eq. 2. With float prediction f, quantized one q and target
    y, (q - y)^2 = (f - y)^2 + (q - f)^2 + 2 (q - f)(f - y): what quantization adds to the error is the deviation
    (q - f)^2 plus a term that vanishes in the mean when q - f has nothing to do with the float model's own error.

    Raises:
        ValueError: when the shapes differ (broadcasting would hide it).
    """
    if one.shape != other.shape:
        raise ValueError(f"both must have one shape, got {tuple(one.shape)} and {tuple(other.shape)}")
    return (one - other).square().flatten(1).mean(1)


def spread_timesteps(zone: Zone, count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
    """One timestep from each of `count` equal parts of the zone: drawn evenly, and evenly spread as well."""
    parts = (torch.arange(count) + torch.rand(count, generator=generator).double()) / count
    return zone.start + (parts * (zone.stop - zone.start)).long()
