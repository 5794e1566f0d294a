"""The training objective: the denoising error per sample, and DreamBooth's loss with prior preservation."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.noise_schedule import NoiseSchedule
from quantbooth.timesteps.zones import Zone

__all__ = [
    "consistency_loss",
    "denoising_error",
    "mean_square",
    "predict",
    "spread_timesteps",
    "with_prior_preservation",
]


def predict(
    base: Base,
    schedule: NoiseSchedule,
    x_0: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    t: Int[Tensor, " b"],
    conditioning: Conditioning,
) -> Float[Tensor, "b c h w"]:
    """Return the prediction at x_t, made from x_0 and noise by the schedule (DDPM, eq. 4), in float32."""
    return base.predict(schedule.add_noise(x_0, noise, t), t, conditioning).float()


def mean_square(one: Float[Tensor, "b c h w"], other: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Return the mean of (one - other)^2 per sample.

    For a prediction and its target this is the loss of LDM, eq. 2. With float prediction f, quantized prediction q and
    target y, (q - y)^2 = (f - y)^2 + (q - f)^2 + 2 (q - f)(f - y): quantization adds the deviation (q - f)^2 to the
    error, and a term whose mean is 0 when q - f is uncorrelated with the float model's error.

    Raises:
        ValueError: when the shapes differ (broadcasting would hide the mistake).
    """
    if one.shape != other.shape:
        raise ValueError(f"both must have one shape, got {tuple(one.shape)} and {tuple(other.shape)}")
    return (one - other).square().flatten(1).mean(1)


def spread_timesteps(zone: Zone, count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
    """Draw one uniform timestep from each of `count` equal parts of the zone (stratified sampling)."""
    parts = (torch.arange(count) + torch.rand(count, generator=generator).double()) / count
    return zone.start + (parts * (zone.stop - zone.start)).long()


def denoising_error(
    base: Base,
    schedule: NoiseSchedule,
    x_0: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    t: Int[Tensor, " b"],
    conditioning: Conditioning,
    target: Float[Tensor, "b c h w"] | None = None,
) -> Float[Tensor, " b"]:
    """Return the mean over the latent of (target - prediction(x_t, t, c))^2 per sample (DDPM, eq. 14; LDM, eq. 2).

    Without `target` it is that of the schedule: the noise, or the velocity.
    """
    predicted = predict(base, schedule, x_0, noise, t, conditioning)
    wanted = schedule.target(x_0, noise, t) if target is None else target
    return (predicted - wanted).square().mean(dim=(1, 2, 3))


def consistency_loss(errors: Float[Tensor, " b"], base_errors: Float[Tensor, " b"], beta: float) -> Float[Tensor, " b"]:
    """Return -log sigmoid(-beta (error - error of the base)) per sample (DCO, arXiv 2402.12004).

    Its slope beta sigmoid(beta (error - error of the base)) falls to 0 once a sample is predicted better than by the
    base, so that a tuned model stays near the base.
    """
    return torch.nn.functional.softplus(beta * (errors - base_errors))


def with_prior_preservation(
    errors: Float[Tensor, " b"], is_prior: Float[Tensor, " b"], prior_loss_weight: float
) -> Float[Tensor, ""]:
    """Return mean(errors of photos) + prior_loss_weight * mean(errors of class pictures) (DreamBooth, eq. 2).

    Args:
        errors: one per sample of a batch that mixes subject photos and class pictures.
        is_prior: 1 for a class picture, 0 for a photo of the subject.
        prior_loss_weight: lambda; without a class picture in the batch the second term is 0.
    """
    subject = (errors * (1 - is_prior)).sum() / (1 - is_prior).sum().clamp(min=1)
    prior = (errors * is_prior).sum() / is_prior.sum().clamp(min=1)
    return subject + prior_loss_weight * prior
