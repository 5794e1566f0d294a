"""Timestep samplers: the density that training timesteps are drawn from, within the zones of a run.

A density p over all timesteps t < T, and the n timesteps c_0 < ... < c_{n-1} of the zones, give the density q of a run:

    reject      q(c_j) = p(c_j) / sum_i p(c_i)                        draws of p outside are drawn again
    rescale     q(c_j) = sum of p(t) over floor(t n / T) = j          p is squeezed into the zones, in the same order
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from quantbooth.runtime.errors import UserError
from quantbooth.store.files import SHORT, fingerprint
from quantbooth.timesteps.density_files import read_weights
from quantbooth.timesteps.zones import Zones

__all__ = ["Listed", "LogitNormal", "TimestepSampler", "Uniform", "Weighted", "listed"]


class TimestepSampler(ABC):
    """What training timesteps are drawn by."""

    @abstractmethod
    def density(self, zones: Zones) -> Float[Tensor, " timesteps"]:
        """Return the probability of every timestep, in float64; 0 outside of the zones.

        Raises:
            UserError: when nothing would be drawn in the zones, or the density is of another number of timesteps.
        """

    @abstractmethod
    def draw(self, zones: Zones, count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
        """Draw timesteps in the zones."""

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Return what enters identities; nothing for the uniform density, which they had before there were others."""


@dataclass(frozen=True)
class Uniform(TimestepSampler):
    """The same probability for every timestep of the zones."""

    def density(self, zones: Zones) -> Float[Tensor, " timesteps"]:
        inside = (zones.index(torch.arange(zones.timesteps)) > 0).double()
        return inside / inside.sum()

    def draw(self, zones: Zones, count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
        return zones.draw(count, generator)

    def describe(self) -> dict[str, object]:
        return {}


class Weighted(TimestepSampler):
    """A density by the weights of all timesteps, rejected or rescaled into the zones."""

    within: str

    @abstractmethod
    def weights(self, timesteps: int) -> Float[Tensor, " timesteps"]:
        """Return the density over all timesteps up to a factor, in float64."""

    def density(self, zones: Zones) -> Float[Tensor, " timesteps"]:
        weights, inside = self.weights(zones.timesteps), zones.index(torch.arange(zones.timesteps)) > 0
        found = torch.where(inside, weights, 0.0)
        if self.within == "rescale":
            covered = inside.nonzero()[:, 0]
            place = torch.arange(zones.timesteps) * len(covered) // zones.timesteps
            found = torch.zeros_like(weights).index_add_(0, covered[place], weights)
        if not found.sum() > 0:
            raise UserError(
                f"timesteps has no weight in {zones}, so nothing would be drawn; set timesteps.within=rescale"
            )
        return found / found.sum()

    def draw(self, zones: Zones, count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
        cumulative = self.density(zones).cumsum(0)
        uniform = torch.rand(count, generator=generator, dtype=torch.float64)
        return torch.searchsorted(cumulative / cumulative[-1], uniform, right=True)

    def describe(self) -> dict[str, object]:
        return dict(vars(self))


@dataclass(frozen=True)
class LogitNormal(Weighted):
    """t = floor(T sigmoid(z)) with z from N(loc, scale^2) (arXiv 2403.03206, eq. 19).

    Attributes:
        loc: mean of z; above 0 is more noise.
        scale: standard deviation of z.
        within: reject or rescale.
    """

    loc: float
    scale: float
    within: str
    name: str = "logit_normal"

    def weights(self, timesteps: int) -> Float[Tensor, " timesteps"]:
        borders = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64).logit()
        return torch.special.ndtr((borders - self.loc) / self.scale).diff()


@dataclass(frozen=True)
class Listed(Weighted):
    """A weight for each timestep, in ascending order."""

    listed: tuple[float, ...]
    within: str
    name: str = "file"

    def weights(self, timesteps: int) -> Float[Tensor, " timesteps"]:
        if len(self.listed) != timesteps:
            raise UserError(
                f"timesteps.path must have a weight for each of the {timesteps} timesteps, found {len(self.listed)}"
            )
        return torch.tensor(self.listed, dtype=torch.float64)

    def describe(self) -> dict[str, object]:
        return {"name": self.name, "weights": fingerprint({"weights": self.listed})[:SHORT], "within": self.within}


def listed(path: str, within: str, name: str = "file") -> Listed:
    """Return the density of a file (see `read_weights`)."""
    return Listed(read_weights(Path(path).expanduser()), within, name)
