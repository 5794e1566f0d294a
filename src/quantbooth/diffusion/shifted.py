"""Training timesteps of a flow that are shifted as the timesteps of its sampler: what is trained is what is served.

sigma = s u / (1 + (s - 1) u) with u uniform         (Esser et al. 2024, arXiv 2403.03206, eq. 23)
P(sigma <= x) = x / (s - (s - 1) x)                  for the cell ((t / T, (t + 1) / T] of each timestep
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from quantbooth.diffusion.families.flow import FlowFamily
from quantbooth.diffusion.families.registry import family_in
from quantbooth.diffusion.scheduler_config import read_scheduler_config
from quantbooth.runtime.errors import UserError
from quantbooth.timesteps.samplers import Weighted

__all__ = ["Shifted", "shifted"]


@dataclass(frozen=True)
class Shifted(Weighted):
    """The density of shifted timesteps.

    Attributes:
        shift: s; 1 is uniform, more is more noise.
        within: reject or rescale.
    """

    shift: float
    within: str
    name: str = "shifted"

    def weights(self, timesteps: int) -> Float[Tensor, " timesteps"]:
        x = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
        return (x / (self.shift - (self.shift - 1) * x)).diff()


def shifted(folder: Path, steps: int, shift: float | None, within: str, name: str = "shifted") -> Shifted:
    """Return the density with a shift, by default that of a base's sampler at a number of steps.

    Raises:
        UserError: when no shift is given and the base is no flow.
    """
    if shift is None:
        family = family_in(folder)
        if not isinstance(family, FlowFamily):
            raise UserError(
                "timesteps=shifted takes the shift of a flow-matching base, and this one has a DDPM schedule; set "
                "timesteps.shift, or choose timesteps=uniform"
            )
        shift = family.shift_factor(read_scheduler_config(folder), steps, family.examine(folder).latents)
    return Shifted(float(shift), within, name)
