"""The base class of families with a transformer and a flow schedule: time, sampler, blocks, and its folder's files.

The network gets its time as `network_timesteps` times sigma, so t = T network time / network_timesteps - 1.
"""

import inspect
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from quantbooth.diffusion.families.folder_config import (
    CONFIG,
    Parts,
    levels,
    network_config,
    number_above_0,
    require_index,
    whole,
)
from quantbooth.diffusion.flow_schedule import KIND, FlowEuler, FlowSchedule, timestep_of
from quantbooth.diffusion.model import Family
from quantbooth.diffusion.scheduler_config import SCHEDULER_FILE, read_scheduler_config
from quantbooth.runtime.errors import UserError

__all__ = ["FlowFamily"]

EULER = "flow_euler"
T = 1000


@cache
def _parameters(kind: Any) -> inspect.Signature:
    return inspect.signature(kind.forward)


class FlowFamily(Family):
    """A transformer trained by flow matching.

    Attributes:
        block_classes: diffusers' classes of its repeated blocks.
        network_timesteps: the network time at sigma = 1.
        denoiser_values: the supported values of keys of the transformer.
        autoencoder_values: the supported values of keys of the autoencoder.
        switches: the supported values of keys of the index that are no parts.
    """

    component = "transformer"
    schedulers: ClassVar[Mapping[str, Any]] = {EULER: FlowEuler}
    block_classes: ClassVar[tuple[type, ...]]
    network_timesteps: ClassVar[int] = 1000
    denoiser_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    autoencoder_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {"in_channels": (3,), "out_channels": (3,)}
    switches: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    def blocks(self, denoiser: nn.Module) -> list[str]:
        return [name for name, module in denoiser.named_modules() if isinstance(module, self.block_classes)]

    def schedule(self, scheduler_config: Mapping[str, Any]) -> FlowSchedule:
        return FlowSchedule(scheduler_config)

    def call_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Any]:
        """Return `hidden_states` and `timestep`, given by position or by keyword."""
        given = _parameters(self.denoiser_class).bind_partial(None, *args, **kwargs).arguments
        return given["hidden_states"], given["timestep"]

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

    def parts_config(self, folder: Path) -> tuple[dict[str, Any], dict[str, Any], int]:
        """Return the configurations of transformer and autoencoder, and the autoencoder's downsampling factor.

        Raises:
            UserError: naming the file, the key and its value that are not supported.
        """
        parts = Parts(
            self.pipeline_class,
            self.component,
            self.denoiser_class,
            self.autoencoders,
            self.text_classes,
            (KIND,),
            self.switches,
        )
        autoencoder = require_index(folder, parts)
        transformer = network_config(folder, self.component, self.denoiser_class, self.denoiser_values)
        vae = network_config(folder, "vae", autoencoder, self.autoencoder_values)
        if "scaling_factor" in vae:
            number_above_0(folder / "vae" / CONFIG, vae, "scaling_factor")
        whole(folder / "vae" / CONFIG, vae, "latent_channels")
        return transformer, vae, 2 ** (levels(folder, vae) - 1)
