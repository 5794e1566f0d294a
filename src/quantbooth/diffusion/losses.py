"""The DreamBooth objective: denoising error of the subject's photos plus that of the class's own pictures."""

from jaxtyping import Float, Int
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.deviation import predict
from quantbooth.diffusion.model import NoiseSchedule

__all__ = ["denoising_error", "with_prior_preservation"]


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
    errors: Float[Tensor, " b"], is_prior: Float[Tensor, " b"], prior_weight: float
) -> Float[Tensor, ""]:
    """L = mean of the subject's errors + prior_weight * mean of the class pictures' errors (DreamBooth, eq. 2).

    Args:
        errors: one per sample of a batch in which subject and class pictures are mixed.
        is_prior: 1 for a class picture, 0 for a photo of the subject.
        prior_weight: lambda; with no class picture in the batch the second term is absent.
    """
    subject = (errors * (1 - is_prior)).sum() / (1 - is_prior).sum().clamp(min=1)
    prior = (errors * is_prior).sum() / is_prior.sum().clamp(min=1)
    return subject + prior_weight * prior
