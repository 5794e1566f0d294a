"""The noise schedule of a base: signal-to-noise by timestep, and the noised latents x_t."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDPMScheduler
from jaxtyping import Float, Int
from torch import Tensor

from quantbooth.errors import UserError

__all__ = ["Schedule"]


class Schedule:
    """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e, with a_t = alpha-bar of the base's own schedule (DDPM, eq. 4).

    Raises:
        UserError: when the base predicts something other than noise or velocity.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.scheduler = DDPMScheduler.from_config(dict(config))
        self.prediction = str(self.scheduler.config["prediction_type"])
        if self.prediction not in ("epsilon", "v_prediction"):
            raise UserError(f"the base must predict epsilon or v_prediction, its scheduler says {self.prediction!r}")

    @property
    def timesteps(self) -> int:
        """T, the number of training timesteps."""
        return int(self.scheduler.config["num_train_timesteps"])

    @property
    def alpha_bar(self) -> Float[Tensor, " timesteps"]:
        return self.scheduler.alphas_cumprod

    def snr(self) -> Float[Tensor, " timesteps"]:
        """Signal-to-noise ratio a_t / (1 - a_t) of each training timestep."""
        return self.alpha_bar / (1 - self.alpha_bar)

    def add_noise(
        self, x_0: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Int[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        return self.scheduler.add_noise(x_0, noise, t)

    def target(
        self, x_0: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Int[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """What the unet is asked to predict: the noise, or the velocity sqrt(a_t) e - sqrt(1 - a_t) x_0."""
        return noise if self.prediction == "epsilon" else self.scheduler.get_velocity(x_0, noise, t)

    def bounded_inverse_weight(self, t: Int[Tensor, " b"], bound: float) -> Float[Tensor, " b"]:
        """min(1 / a_t, bound): without it the noisiest timesteps of a small model hardly learn."""
        return (1 / self.alpha_bar.to(t.device)[t]).clamp(max=bound)

    def first_timestep_below(self, snr: float) -> int:
        """The first t whose signal-to-noise ratio is below the given one (354 and 934 for SD at 1 and 0.01)."""
        below = torch.nonzero(self.snr() < snr)
        return int(below[0]) if len(below) else self.timesteps
