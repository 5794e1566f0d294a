"""The base class of families with a DDPM schedule; network time is the training timestep."""

from collections.abc import Mapping
from typing import Any, ClassVar

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler
from torch import Tensor

from quantbooth.diffusion.model import Family
from quantbooth.diffusion.schedule import Schedule
from quantbooth.diffusion.scheduler_config import own_default

__all__ = ["DDPM_SCHEDULERS", "DdpmFamily"]

DDPM_SCHEDULERS: dict[str, Any] = {  # none draws noise (ancestral, SDE): an image is decided by its prompt and seed
    "ddim": DDIMScheduler,
    "dpm": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "pndm": PNDMScheduler,
}
"""Schedulers that pass timesteps in [0, T) to the network."""


class DdpmFamily(Family):
    """A denoiser trained on a DDPM schedule."""

    schedulers: ClassVar[Mapping[str, Any]] = DDPM_SCHEDULERS

    def schedule(self, scheduler_config: Mapping[str, Any]) -> Schedule:
        return Schedule(scheduler_config)

    def training_timestep(self, network_time: Tensor) -> Tensor:
        return network_time

    def sampler_config(self, scheduler_config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration with the base's own `clip_sample`: DDIM would take true where it is absent."""
        return {"clip_sample": bool(own_default(scheduler_config, "clip_sample")), **scheduler_config}
