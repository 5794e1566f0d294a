"""The gradient of the loss in each timestep bin of an untuned base: which bins want the same of the parameters.

    g_n = gradient of the mean over draws j of |y - prediction(x_t, t, c)|^2, t in bin n
    affinity of two bins = cos(g_n, g_m)

Draw j has one photo and one noise in all bins, so that bins differ by their timesteps alone.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from quantbooth.diffusion.base import Base
from quantbooth.diffusion.conditioning import Conditioning
from quantbooth.diffusion.objective import denoising_error, spread_timesteps
from quantbooth.runtime.draws import generator_for
from quantbooth.runtime.errors import UserError
from quantbooth.runtime.lightning import Loop
from quantbooth.store.documents import read_as
from quantbooth.timesteps.zones import Zone, Zones

__all__ = ["FILE", "Gradients", "measure_gradients", "read_gradients", "write_gradients"]

FILE = "gradients.json"
PURPOSE = "gradients"


@dataclass(frozen=True)
class Gradients:
    """Gradients of timestep bins, as far as borders need them.

    Attributes:
        affinity: the cosine of each two bins.
        losses: the mean denoising error of each bin.
    """

    affinity: list[list[float]]
    losses: list[float]


def measure_gradients(
    base: Base,
    photos: Float[Tensor, "n c h w"],
    text: Conditioning,
    bins: Zones,
    draws: int,
    seed: int,
    loop: Loop,
    what: str,
) -> Gradients:
    """Measure the gradients of a base with trainable parameters that have no effect yet.

    Args:
        base: with the parameters attached, on which the gradients are taken.
        photos: latents of the subject's photos, used in turn.
        text: the encoded instance prompt, one row.
        bins: the timestep bins.
        draws: of photo, noise and timestep in each bin, one backward pass each.
        seed: of noise and timesteps.
        loop: runs the bins.
        what: text of the progress bar.

    Raises:
        UserError: when a gradient is 0 or not finite.
    """
    loop.place(base.denoiser)
    parameters = [one for one in base.denoiser.parameters() if one.requires_grad]
    noises = [torch.randn(photos[:1].shape, generator=generator_for(seed, j, PURPOSE)) for j in range(draws)]
    rows = [(photos[j % len(photos)][None].to(loop.device), noise.to(loop.device)) for j, noise in enumerate(noises)]
    text, schedule = text.to(loop.device), base.schedule

    def of_bin(zone: Zone) -> tuple[Tensor, float]:
        t = spread_timesteps(zone, draws, generator_for(seed, 0, f"timesteps of {PURPOSE}")).to(loop.device)
        loss = 0.0
        with torch.enable_grad():
            for j, (x_0, noise) in enumerate(rows):
                error = denoising_error(base, schedule, x_0, noise, t[j : j + 1], text).mean() / draws
                error.backward()
                loss += float(error.detach())
        return _direction_(parameters, zone), loss

    found = loop.map(of_bin, bins.zones, what)
    directions = torch.stack([direction for direction, _ in found])
    return Gradients((directions @ directions.T).tolist(), [loss for _, loss in found])


def _direction_(parameters: Sequence[nn.Parameter], zone: Zone) -> Float[Tensor, " p"]:
    """Return the normalized gradient that parameters have, and take it from them."""
    given = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
    gradient = torch.cat([each.flatten().double().cpu() for each in given])
    for one in parameters:
        one.grad = None
    length = gradient.norm()
    if not 0 < float(length) < torch.inf:
        raise UserError(
            f"the gradient at timesteps [{zone.start}, {zone.stop}) has length {float(length):g}, so it has no "
            "direction; choose trainer.precision=32-true, or another strategy"
        )
    return gradient / length


def write_gradients(folder: Path, found: Gradients) -> None:
    """Write the gradients as JSON, every digit."""
    (folder / FILE).write_text(json.dumps(asdict(found), allow_nan=False))


def read_gradients(folder: Path) -> Gradients:
    """Return what `write_gradients` wrote.

    Raises:
        UserError: when the file is damaged, or its tables are not one square and as many losses.
    """
    found: Gradients = read_as(Gradients, folder / FILE)
    if not found.losses or {len(found.affinity), *map(len, found.affinity)} != {len(found.losses)}:
        raise UserError(
            f"{folder / FILE}: affinity must have a row and a column for each of {len(found.losses)} losses"
        )
    return found
