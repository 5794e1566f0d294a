"""Training timesteps by their signal-to-noise ratio: log SNR is normal, or uniform, on the schedule of a base."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from quantbooth.diffusion.families.registry import family_in
from quantbooth.diffusion.scheduler_config import read_scheduler_config
from quantbooth.runtime.errors import UserError
from quantbooth.timesteps.samplers import Weighted

__all__ = ["LogSNR", "log_snr"]


@dataclass(frozen=True)
class LogSNR(Weighted):
    """l = log SNR from N(mean, std^2), or uniform; t has the cell of l between the midpoints to its neighbours.

    EDM (arXiv 2206.00364) draws log sigma from N(-1.2, 1.2^2), which is mean 2.4 and std 2.4 here: l = -2 log sigma.

    Attributes:
        levels: log SNR of each timestep, falling.
        mean: of log SNR.
        std: standard deviation of log SNR; None is uniform.
        within: reject or rescale.
    """

    levels: tuple[float, ...]
    mean: float
    std: float | None
    within: str
    name: str = "log_snr"

    def weights(self, timesteps: int) -> Float[Tensor, " timesteps"]:
        if len(self.levels) != timesteps:
            raise UserError(f"base.timesteps must be the {len(self.levels)} of its schedule, got {timesteps}")
        level = torch.tensor(self.levels, dtype=torch.float64)
        inner = (level[1:] + level[:-1]) / 2
        borders = torch.cat([2 * level[:1] - inner[:1], inner, 2 * level[-1:] - inner[-1:]])
        if self.std is not None:
            borders = torch.special.ndtr((borders - self.mean) / self.std)
        return -borders.diff()

    def describe(self) -> dict[str, object]:
        return {"name": self.name, "mean": self.mean, "std": self.std, "within": self.within}


def log_snr(folder: Path, mean: float, std: float | None, within: str, name: str = "log_snr") -> LogSNR:
    """Return the density on the schedule of a diffusers folder, of which only the scheduler's configuration is read.

    Raises:
        UserError: when the folder has no scheduler, or a mean is given without std.
    """
    if std is None and mean != 0:
        raise UserError(f"timesteps.mean={mean} needs timesteps.std, such as 2.4; without it log SNR is uniform")
    snr = family_in(folder).schedule(read_scheduler_config(folder)).snr().double()
    levels = snr.log()
    if not levels[-1].isfinite():  # of noise alone: the level that would follow
        levels[-1] = 2 * levels[-2] - levels[-3]
    return LogSNR(tuple(levels.tolist()), mean, std, within, name)
