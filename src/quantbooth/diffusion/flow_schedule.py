"""The flow-matching schedule of a base: straight paths from a picture to noise, and diffusers' Euler sampler of them.

    x_t = (1 - sigma) x_0 + sigma e        target = e - x_0        (rectified flow, arXiv 2209.03003)
    sigma(t) = (t + 1) / T                 t = T sigma - 1, in [0, T)

t = T - 1 is noise alone, t = 0 nearly the picture. A shift moves timesteps towards noise, in sampling by the base's
scheduler and in training by `timesteps=shifted`; zones are intervals of the t that results:

    shifted(sigma) = s sigma / (1 + (s - 1) sigma)      (Esser et al. 2024, arXiv 2403.03206, eq. 23)
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from jaxtyping import Float, Int
from torch import Tensor

from quantbooth.diffusion.diffusers_folder import require_values, shortened
from quantbooth.diffusion.scheduler_config import MOST_TIMESTEPS, SCHEDULER_FILE
from quantbooth.runtime.errors import UserError

__all__ = ["FlowEuler", "FlowSchedule", "require_flow", "sigma_of", "timestep_of"]

KIND = FlowMatchEulerDiscreteScheduler.__name__
ALLOWED: dict[str, tuple[Any, ...]] = {
    **{"_class_name": (KIND,), "stochastic_sampling": (False, None), "invert_sigmas": (False, None)},
    **{"time_shift_type": ("exponential", "linear"), "use_dynamic_shifting": (True, False)},
}


def require_flow(config: Mapping[str, Any]) -> None:
    """Refuse what is not the configuration of diffusers' flow-matching scheduler, or draws noise.

    Raises:
        UserError: naming the file, the key and its value.
    """
    require_values(SCHEDULER_FILE, {"_class_name": None, **config}, ALLOWED)
    known = inspect.signature(FlowMatchEulerDiscreteScheduler.__init__).parameters
    for key, value in config.items():
        if not key.startswith("_") and key not in known:
            raise UserError(
                f"{SCHEDULER_FILE} says {shortened(key)} = {shortened(value)}, which {KIND} does not have; choose a "
                "base without it"
            )
    count = config.get("num_train_timesteps")
    if not isinstance(count, int) or isinstance(count, bool) or not 2 <= count <= MOST_TIMESTEPS:
        raise UserError(
            f"{SCHEDULER_FILE}: num_train_timesteps must be 2 to {MOST_TIMESTEPS}, found {shortened(count)}"
        )
    shift = config.get("shift", 1.0)
    if not isinstance(shift, int | float) or isinstance(shift, bool) or not 0 < shift < 1000:
        raise UserError(f"{SCHEDULER_FILE}: shift must be a number above 0, found {shortened(shift)}")


def sigma_of(t: Tensor, timesteps: int) -> Tensor:
    """Return sigma = (t + 1) / T, in float."""
    return (t.float() + 1) / timesteps


def timestep_of(scaled_sigma: Tensor) -> Tensor:
    """Return t of T sigma, exactly: T sigma - 1, and 0 where sigma is less than 1 / T."""
    return (scaled_sigma - 1).clamp(min=0)


class FlowSchedule:
    """The noise schedule of a flow-matching base; `NoiseSchedule` says what its members are.

    Raises:
        UserError: when the configuration is of another kind, or not supported, as `require_flow`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        require_flow(config)
        self.scheduler = FlowMatchEulerDiscreteScheduler.from_config(dict(config))

    @property
    def timesteps(self) -> int:
        return int(self.scheduler.config["num_train_timesteps"])

    def snr(self) -> Float[Tensor, " timesteps"]:
        """Return ((1 - sigma) / sigma)^2 of each training timestep."""
        sigma = sigma_of(torch.arange(self.timesteps), self.timesteps)
        return ((1 - sigma) / sigma).square()

    def add_noise(
        self, x_0: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Int[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        sigma = sigma_of(t.to(x_0.device), self.timesteps).to(x_0.dtype).view(-1, *[1] * (x_0.ndim - 1))
        return (1 - sigma) * x_0 + sigma * noise

    def target(
        self, x_0: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Int[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """Return the velocity noise - x_0, the same at every t."""
        return noise - x_0

    def origin(
        self, x_t: Float[Tensor, "b ..."], predicted: Float[Tensor, "b ..."], t: Tensor
    ) -> Float[Tensor, "b ..."]:
        """Return the implied x_0 = x_t - sigma v; t is one timestep for the whole batch."""
        return x_t - sigma_of(t.to(x_t.device), self.timesteps).to(x_t.dtype) * predicted

    def bounded_inverse_weight(self, t: Int[Tensor, " b"], bound: float) -> Float[Tensor, " b"]:
        """Return min(1 / (1 - sigma)^2, bound)."""
        return (1 / (1 - sigma_of(t, self.timesteps)).square()).clamp(max=bound)

    def first_timestep_below(self, snr: float) -> int:
        below = torch.nonzero(self.snr() < snr)
        return int(below[0]) if len(below) else self.timesteps


class FlowEuler:
    """Diffusers' Euler sampler of flows (`FlowMatchEulerDiscreteScheduler`), its timesteps in training units.

    Args:
        config: of the base's scheduler, with its shift.
        steps: number of inference steps.
        options: of `set_timesteps`: `mu` of a shift by the number of tokens, `sigmas` before it.

    Raises:
        UserError: when diffusers refuses the options.
    """

    init_noise_sigma = 1.0

    def __init__(self, config: Mapping[str, Any], steps: int, options: Mapping[str, Any] | None = None) -> None:
        self.inner = FlowMatchEulerDiscreteScheduler.from_config(dict(config))
        try:
            self.inner.set_timesteps(steps, **(options or {}))
        except (ValueError, TypeError, ImportError, ArithmeticError) as error:
            said = str(error).strip().partition("\n")[0]
            raise UserError(f"sampler.scheduler=flow_euler cannot be made of {SCHEDULER_FILE}: {said}") from error
        self.timesteps = timestep_of(self.inner.timesteps)
        self._step = 0

    def scale_model_input(self, x: Tensor, t: Tensor) -> Tensor:
        """Return x, which flows never scale."""
        return x

    def step(self, predicted: Tensor, t: Tensor, x: Tensor) -> Any:
        """Return diffusers' output of the next step: x + (sigma' - sigma) v.

        Raises:
            ValueError: when t is not the timestep of that step.
        """
        if t != self.timesteps[self._step]:
            raise ValueError(f"step {self._step} must be at t = {self.timesteps[self._step]:g}, got {t:g}")
        network_time = self.inner.timesteps[self._step]
        self._step += 1
        return self.inner.step(predicted, network_time, x)
