"""The base class of families with a transformer and a flow schedule: time and sampler.

The network gets its time as `network_timesteps` times sigma, so t = T network time / network_timesteps - 1.
"""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from quantbooth.diffusion.families.transformer import TransformerFamily
from quantbooth.diffusion.flow_schedule import KIND, FlowEuler, FlowSchedule, timestep_of
from quantbooth.diffusion.scheduler_config import SCHEDULER_FILE, read_scheduler_config
from quantbooth.runtime.errors import UserError

__all__ = ["FlowFamily"]

EULER = "flow_euler"
T = 1000


class FlowFamily(TransformerFamily):
    """A transformer trained by flow matching.

    Attributes:
        network_timesteps: the network time at sigma = 1.
    """

    schedulers: ClassVar[Mapping[str, Any]] = {EULER: FlowEuler}
    scheduler_kinds: ClassVar[Collection[str]] = (KIND,)
    network_timesteps: ClassVar[int] = 1000

    def schedule(self, scheduler_config: Mapping[str, Any]) -> FlowSchedule:
        return FlowSchedule(scheduler_config)

    def network_time(self, t: Tensor, rows: int) -> Tensor:
        """Return the network's time of t, one number a row; the inverse of `training_timestep`."""
        return ((t.float() + 1) / (T / self.network_timesteps)).expand(rows)

    def training_timestep(self, network_time: Tensor) -> Tensor:
        return timestep_of((network_time * (T / self.network_timesteps)).round(decimals=2))  # borders are whole

    def new_scheduler(
        self, name: str, scheduler_config: Mapping[str, Any], steps: int, latent_shape: tuple[int, int, int]
    ) -> FlowEuler:
        if name not in self.schedulers:
            raise UserError(f"sampler.scheduler must be {EULER} for this base, got {name!r}; choose sampler={EULER}")
        return FlowEuler(scheduler_config, steps, self.scheduler_options(scheduler_config, steps, latent_shape))

    def scheduler_options(
        self, scheduler_config: Mapping[str, Any], steps: int, latent_shape: tuple[int, int, int]
    ) -> dict[str, Any]:
        """Return the options that the family's pipeline gives to the scheduler's `set_timesteps`, such as `mu`."""
        return {}

    def shift_factor(
        self, scheduler_config: Mapping[str, Any], steps: int, latent_shape: tuple[int, int, int]
    ) -> float:
        """Return s of the sampler's sigma = s u / (1 + (s - 1) u): exp(mu), mu of a linear shift, or the base's own."""
        if not scheduler_config.get("use_dynamic_shifting"):
            return float(scheduler_config.get("shift", 1.0))
        mu = float(self.scheduler_options(scheduler_config, steps, latent_shape)["mu"])
        return mu if scheduler_config.get("time_shift_type") == "linear" else math.exp(mu)

    def timesteps(self, folder: Path) -> int:
        """Return T of a folder's scheduler.

        Raises:
            UserError: when its configuration is not supported, or T is not 1000, as of all published bases.
        """
        found = self.schedule(read_scheduler_config(folder)).timesteps
        if found != T:
            raise UserError(f"{folder}/{SCHEDULER_FILE}: num_train_timesteps must be {T}, found {found}")
        return found
