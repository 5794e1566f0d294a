"""APT's overfitting indicator: how much better the tuned base denoises its photos than the untuned one, by timestep.

    gamma_n = max(0, 1 - exp(-T_n (L_untuned,n - L_tuned,n)))        T_n = 1 / L_untuned,n

from 0, as the untuned base, to 1 - 1 / e, no error on the photos left. The paper (arXiv 2507.02687) has exponential
means of the losses of training; here both are measured after it, on the same photos, noises and timesteps.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.objective import denoising_error, spread_timesteps
from quantbooth.runtime.draws import batches, generator_for
from quantbooth.runtime.lightning import Loop
from quantbooth.timesteps.zones import Zone, equal_zones

__all__ = ["BINS", "errors_by_bin", "indicator"]

BINS, DRAWS = 10, 4
"""Timestep bins, and draws of photo, noise and timestep in each."""
PURPOSE = "overfitting"


def errors_by_bin(
    base: Base, photos: Float[Tensor, "n c h w"], text: Conditioning, loop: Loop, batch: int, what: str
) -> list[float]:
    """Return the mean denoising error in each bin, over the photos in turn; draws depend on nothing else.

    Args:
        base: the base, tuned or not.
        photos: latents of the subject's photos.
        text: the encoded instance prompt, one row.
        loop: runs the bins; the denoiser is on its device.
        batch: rows per call of the denoiser.
        what: text of the progress bar.
    """
    x_0 = photos[torch.arange(DRAWS) % len(photos)].to(loop.device)
    noise = torch.cat([torch.randn(photos[:1].shape, generator=generator_for(0, j, PURPOSE)) for j in range(DRAWS)])
    noise, text, schedule = noise.to(loop.device), text.to(loop.device), base.schedule

    def of_bin(zone: Zone) -> float:
        t = spread_timesteps(zone, DRAWS, generator_for(0, 0, f"timesteps of {PURPOSE}")).to(loop.device)
        parts = [
            denoising_error(base, schedule, x_0[rows], noise[rows], t[rows], text.expand(len(rows)))
            for rows in batches(DRAWS, batch)
        ]
        return float(torch.cat(parts).double().mean())

    return loop.map(of_bin, equal_zones(min(BINS, base.timesteps), base.timesteps).zones, what)


def indicator(untuned: Sequence[float], tuned: Sequence[float]) -> list[float]:
    """Return gamma of each bin, by the errors of the untuned and the tuned base."""
    return [max(0.0, 1 - math.exp(after / before - 1)) for before, after in zip(untuned, tuned, strict=True)]
