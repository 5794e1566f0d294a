"""The DreamBooth objective: denoising error of the subject's photos plus that of the class's own pictures."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from quantbooth.diffusion.deviation import predict
from quantbooth.diffusion.schedule import Schedule

__all__ = ["denoising_error", "with_prior_preservation"]


def denoising_error(
    unet: nn.Module,
    schedule: Schedule,
    x_0: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    t: Int[Tensor, " b"],
    text: Float[Tensor, "b length d"],
) -> Float[Tensor, " b"]:
    """Per sample: mean over the latent of (target - unet(x_t, t, text))^2 (DDPM, eq. 14; LDM, eq. 2)."""
    predicted = predict(unet, schedule, x_0, noise, t, text)
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
