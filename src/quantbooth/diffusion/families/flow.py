"""The base class of families with a transformer and a flow schedule: time and sampler.

The network gets its time as `network_timesteps` times sigma, so t = T network time / network_timesteps - 1.
"""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor

from quantbooth.diffusion.families.transformer import TransformerFamily
from quantbooth.diffusion.flow_schedule import KIND, FlowEuler, FlowSchedule, timestep_of
from quantbooth.diffusion.scheduler_config import SCHEDULER_FILE, read_scheduler_config
from quantbooth.runtime.errors import UserError

__all__ = ["FlowFamily", "mu_by_patches"]

EULER = "flow_euler"
T = 1000
PATCH = 2
SHIFT_RANGE = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
"""Keys of the scheduler's configuration that decide mu, with the defaults of diffusers' pipelines."""


def mu_by_patches(
    scheduler_config: Mapping[str, Any], latent_shape: tuple[int, int, int], max_shift: float = SHIFT_RANGE["max_shift"]
) -> float:
    """Return mu of the shift by the number of 2 x 2 patches; `max_shift` where the configuration does not say it."""
    said = {**SHIFT_RANGE, "max_shift": max_shift, **scheduler_config}
    patches = (latent_shape[1] // PATCH) * (latent_shape[2] // PATCH)
    return float(calculate_shift(patches, *(said[key] for key in SHIFT_RANGE)))


class FlowFamily(TransformerFamily):
    """A transformer trained by flow matching.

    Attributes:
        network_timesteps: the network time at sigma = 1.
    """

    schedulers: ClassVar[Mapping[str, Any]] = {EULER: FlowEuler}
    scheduler_kinds: ClassVar[Collection[str]] = (KIND,)
    network_timesteps: ClassVar[int] = 1000

    def flow_config(self, scheduler_config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration of diffusers' flow-matching scheduler with the noise schedule of a base's own."""
        return dict(scheduler_config)

    def schedule(self, scheduler_config: Mapping[str, Any]) -> FlowSchedule:
        return FlowSchedule(self.flow_config(scheduler_config))

    def network_time(self, t: Tensor, rows: int) -> Tensor:
        return ((t.float() + 1) / (T / self.network_timesteps)).expand(rows)

    def training_timestep(self, network_time: Tensor) -> Tensor:
        return timestep_of((network_time * (T / self.network_timesteps)).round(decimals=2))  # borders are whole

    def new_scheduler(
        self, name: str, scheduler_config: Mapping[str, Any], steps: int, latent_shape: tuple[int, int, int]
    ) -> FlowEuler:
        if name not in self.schedulers:
            raise UserError(f"sampler.scheduler must be {EULER} for this base, got {name!r}; choose sampler={EULER}")
        config = self.flow_config(scheduler_config)
        return FlowEuler(config, steps, self.scheduler_options(config, steps, latent_shape))

    def scheduler_options(
        self, scheduler_config: Mapping[str, Any], steps: int, latent_shape: tuple[int, int, int]
    ) -> dict[str, Any]:
        """Return the options that the family's pipeline gives to the scheduler's `set_timesteps`, such as `mu`."""
        return {}

    def shift_factor(
        self, scheduler_config: Mapping[str, Any], steps: int, latent_shape: tuple[int, int, int]
    ) -> float:
        """Return s of the sampler's sigma = s u / (1 + (s - 1) u): exp(mu), mu of a linear shift, or the base's own."""
        config = self.flow_config(scheduler_config)
        if not config.get("use_dynamic_shifting"):
            return float(config.get("shift", 1.0))
        mu = float(self.scheduler_options(config, steps, latent_shape)["mu"])
        return mu if config.get("time_shift_type") == "linear" else math.exp(mu)

    def pipeline(self, parts: Mapping[str, Any], scheduler_config: Mapping[str, Any]) -> Any:
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(self.flow_config(scheduler_config))
        return self.pipeline_class(**parts, **dict.fromkeys(self.absent_parts), scheduler=scheduler)

    def timesteps(self, folder: Path) -> int:
        """Return T of a folder's scheduler.

        Raises:
            UserError: when its configuration is not supported, or T is not 1000, as of all published bases.
        """
        found = self.schedule(read_scheduler_config(folder)).timesteps
        if found != T:
            raise UserError(f"{folder}/{SCHEDULER_FILE}: num_train_timesteps must be {T}, found {found}")
        return found
