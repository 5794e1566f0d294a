"""The untuned base beside the tuned one: its prediction as a target, and the distance of parameters from it."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.noise_schedule import NoiseSchedule
from quantbooth.diffusion.objective import predict
from quantbooth.diffusion.router import SubjectsRoute

__all__ = ["Distance", "Teacher", "distance_from_start", "frozen_copy"]

Distance = Callable[[], Float[Tensor, ""]]
"""Returns how far the trainable parameters are from the untuned base, with gradient."""


@dataclass(frozen=True)
class Teacher:
    """The prediction of the untuned base at the same x_t, without gradient.

    Attributes:
        base: the tuned base, whose set 0 is the untuned one; or a frozen copy of a base whose weights are tuned.
        route: selects set 0 in a tuned base; None for a copy.
    """

    base: Base
    route: SubjectsRoute | None

    @cached_property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule; its numbers stay on the device."""
        return self.base.schedule

    @torch.no_grad()
    def __call__(
        self,
        x_0: Float[Tensor, "b c h w"],
        noise: Float[Tensor, "b c h w"],
        t: Int[Tensor, " b"],
        conditioning: Conditioning,
    ) -> Float[Tensor, "b c h w"]:
        """Return the prediction at x_t = add_noise(x_0, noise, t)."""
        if self.route is None:
            return predict(self.base, self.schedule, x_0, noise, t, conditioning)
        with self.route.untuned():
            return predict(self.base, self.schedule, x_0, noise, t, conditioning)


def frozen_copy(base: Base) -> Base:
    """Return a base with a copy of the denoiser that never learns; it needs the memory of the denoiser once more."""
    denoiser = deepcopy(base.denoiser)
    denoiser.requires_grad_(False)
    return base.with_denoiser(denoiser)


def distance_from_start(parameters: Sequence[nn.Parameter]) -> Distance:
    """Return the distance sum (p - p0)^2 of parameters from the values p0 that they have now."""
    start = [parameter.detach().clone() for parameter in parameters]

    def distance() -> Float[Tensor, ""]:
        start[:] = [then.to(now.device) for now, then in zip(parameters, start, strict=True)]  # training moved them
        squares = [(now - then).square().sum() for now, then in zip(parameters, start, strict=True)]
        return torch.stack(squares).sum()

    return distance
