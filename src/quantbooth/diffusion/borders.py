"""Borders of timestep zones from the noise schedule of a base, of any family."""

from pathlib import Path

from quantbooth.diffusion.families.registry import family_in
from quantbooth.diffusion.scheduler_config import read_scheduler_config
from quantbooth.runtime.errors import UserError

__all__ = ["borders_by_snr"]


def borders_by_snr(folder: Path, clean_up: float, coarse: float) -> dict[str, list[int]]:
    """Return the clean-up, content and coarse zones by the schedule's signal-to-noise ratio (P2, Choi et al. 2022).

    Args:
        folder: a diffusers folder; only its index and its scheduler's configuration are read.
        clean_up: the ratio above which t is in the clean-up zone (1: t < 354 for Stable Diffusion, 500 for a flow).
        coarse: the ratio below which t is in the coarse zone (0.01: t >= 934 for Stable Diffusion, 909 for a flow).

    Raises:
        UserError: when the folder has no scheduler, or a zone would be empty.
    """
    schedule = family_in(folder).schedule(read_scheduler_config(folder))
    low, high, end = schedule.first_timestep_below(clean_up), schedule.first_timestep_below(coarse), schedule.timesteps
    if not 0 < low < high < end:
        raise UserError(f"signal-to-noise {clean_up} and {coarse} must leave three zones, got borders {low} and {high}")
    return {"clean_up": [0, low], "content": [low, high], "coarse": [high, end]}
