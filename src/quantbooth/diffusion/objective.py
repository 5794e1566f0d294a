"""The objective: the error of a predicted noise, and DreamBooth's sum over subject and class pictures.

Prediction errors on held-out (x_t, t, c): how far a base is from its target, and from another base.

The DreamBooth objective: denoising error of the subject's photos plus that of the class's own pictures.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.model import NoiseSchedule
from quantbooth.timesteps.zones import Zone

__all__ = ["denoising_error", "mean_square", "predict", "spread_timesteps", "with_prior_preservation"]


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


def denoising_error(
    base: Base,
    schedule: NoiseSchedule,
    x_0: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    t: Int[Tensor, " b"],
    conditioning: Conditioning,
) -> Float[Tensor, " b"]:
    """Per sample: mean over the latent of (target - prediction(x_t, t, c))^2 (DDPM, eq. 14; LDM, eq. 2)."""
    predicted = predict(base, schedule, x_0, noise, t, conditioning)
    squares = (predicted - schedule.target(x_0, noise, t).float()).square()
    return squares.mean(dim=(1, 2, 3))


def with_prior_preservation(
    errors: Float[Tensor, " b"], is_prior: Float[Tensor, " b"], prior_loss_weight: float
) -> Float[Tensor, ""]:
    """L = mean of the subject's errors + prior_loss_weight * mean of the class pictures' errors (DreamBooth, eq. 2).

    Args:
        errors: one per sample of a batch in which subject and class pictures are mixed.
        is_prior: 1 for a class picture, 0 for a photo of the subject.
        prior_loss_weight: lambda; with no class picture in the batch the second term is absent.
    """
    subject = (errors * (1 - is_prior)).sum() / (1 - is_prior).sum().clamp(min=1)
    prior = (errors * is_prior).sum() / is_prior.sum().clamp(min=1)
    return subject + prior_loss_weight * prior
