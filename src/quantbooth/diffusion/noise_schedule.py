"""The interface of a noise schedule, of diffusion and of flow matching: what training and its losses may ask of it."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["NoiseSchedule"]


@runtime_checkable
class NoiseSchedule(Protocol):
    """The forward process of a family and the prediction target of its denoiser; t is a training timestep."""

    @property
    def timesteps(self) -> int:
        """T, the number of training timesteps."""

    def snr(self) -> Float[Tensor, " timesteps"]:
        """Return the signal-to-noise ratio of each training timestep, decreasing in t."""

    def add_noise(
        self, x_0: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Int[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """Return x_t."""

    def target(
        self, x_0: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Int[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """Return the prediction target at x_t."""

    def origin(
        self, x_t: Float[Tensor, "b ..."], predicted: Float[Tensor, "b ..."], t: Tensor
    ) -> Float[Tensor, "b ..."]:
        """Return the x_0 that a prediction implies; t is one timestep for the whole batch."""

    def bounded_inverse_weight(self, t: Int[Tensor, " b"], bound: float) -> Float[Tensor, " b"]:
        """Return the loss weight min(1 / signal power of x_t, bound) of each sample."""

    def first_timestep_below(self, snr: float) -> int:
        """Return the first t whose signal-to-noise ratio is below the given one, T where there is none."""
