"""The DDPM noise schedule of a base: signal-to-noise ratio by timestep, noised latents x_t and prediction targets."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDPMScheduler
from jaxtyping import Float, Int
from torch import Tensor

from quantbooth.diffusion.scheduler_config import require_ddpm

__all__ = ["Schedule"]


class Schedule:
    """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e, with a_t = alpha-bar of the base's own schedule (DDPM, eq. 4).

    Raises:
        UserError: when the configuration is of another kind, or not supported, as `require_ddpm`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        require_ddpm(config)
        self.scheduler = DDPMScheduler.from_config(dict(config))
        self.prediction = str(self.scheduler.config["prediction_type"])

    @property
    def timesteps(self) -> int:
        """T, the number of training timesteps."""
        return int(self.scheduler.config["num_train_timesteps"])

    @property
    def alpha_bar(self) -> Float[Tensor, " timesteps"]:
        return self.scheduler.alphas_cumprod

    def snr(self) -> Float[Tensor, " timesteps"]:
        """Return the signal-to-noise ratio a_t / (1 - a_t) of each training timestep."""
        return self.alpha_bar / (1 - self.alpha_bar)

    def add_noise(
        self, x_0: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Int[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        return self.scheduler.add_noise(x_0, noise, t)

    def target(
        self, x_0: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Int[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """Return the prediction target: the noise, or the velocity sqrt(a_t) e - sqrt(1 - a_t) x_0."""
        return noise if self.prediction == "epsilon" else self.scheduler.get_velocity(x_0, noise, t)

    def origin(
        self, x_t: Float[Tensor, "b ..."], predicted: Float[Tensor, "b ..."], t: Tensor
    ) -> Float[Tensor, "b ..."]:
        """Return the implied x_0: (x_t - sqrt(1 - a_t) e) / sqrt(a_t), or sqrt(a_t) x_t - sqrt(1 - a_t) v.

        `t` is one training timestep for the whole batch; a fractional one is rounded.
        """
        a = self.alpha_bar[int(t.round())].to(x_t)
        if self.prediction == "epsilon":
            return (x_t - (1 - a).sqrt() * predicted) / a.sqrt()
        return a.sqrt() * x_t - (1 - a).sqrt() * predicted

    def bounded_inverse_weight(self, t: Int[Tensor, " b"], bound: float) -> Float[Tensor, " b"]:
        """Return min(1 / a_t, bound); without this weight a small model hardly learns the noisiest timesteps."""
        return (1 / self.alpha_bar.to(t.device)[t]).clamp(max=bound)

    def first_timestep_below(self, snr: float) -> int:
        """Return the first t whose signal-to-noise ratio is below the given one (SD: 354 for 1, 934 for 0.01)."""
        below = torch.nonzero(self.snr() < snr)
        return int(below[0]) if len(below) else self.timesteps
