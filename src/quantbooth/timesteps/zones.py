"""Zones: named half-open intervals of training timesteps, and the map from a timestep to its zone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from quantbooth.runtime.devices import holds
from quantbooth.runtime.errors import UserError

__all__ = ["Zone", "Zones", "equal_zones", "zones_from_borders"]


@dataclass(frozen=True)
class Zone:
    """The training timesteps t with start <= t < stop."""

    name: str
    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.name} [{self.start}, {self.stop})"


@dataclass(frozen=True)
class Zones:
    """Zones that do not overlap, in ascending order, within [0, timesteps); gaps are allowed.

    Zones of one name are one zone of several intervals.

    Raises:
        UserError: for an empty zone, one outside [0, timesteps), or two that overlap.
    """

    zones: tuple[Zone, ...]
    timesteps: int

    def __post_init__(self) -> None:
        for zone in self.zones:
            if not (0 <= zone.start < zone.stop <= self.timesteps):
                raise UserError(
                    f"an interval of timesteps must satisfy 0 <= start < stop <= {self.timesteps}, got {zone}"
                )
        for left, right in zip(self.zones, self.zones[1:], strict=False):
            if right.start < left.stop:
                raise UserError(f"zones must be in ascending order and must not overlap, got {left} and {right}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """The different names, in the order of their first intervals."""
        return tuple(dict.fromkeys(zone.name for zone in self.zones))

    def named(self, name: str) -> "Zones":
        """Return the zone of this name alone, with all of its intervals."""
        return Zones(tuple(zone for zone in self.zones if zone.name == name), self.timesteps)

    def __str__(self) -> str:
        return ", ".join(map(str, self.zones))

    def index(self, t: Shaped[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Return k for the k-th zone (from 1), 0 where no zone contains t, which may be fractional.

        Raises:
            ValueError: when a timestep is outside [0, timesteps).
        """
        rule = f"timesteps must be in [0, {self.timesteps})"
        if not holds(((t >= 0) & (t < self.timesteps)).all(), rule):
            raise ValueError(f"{rule}, got {t.tolist()}")
        index = torch.zeros(t.shape, dtype=torch.long, device=t.device)
        for zone in self.zones:
            index[(t >= zone.start) & (t < zone.stop)] = self.names.index(zone.name) + 1
        return index

    def draw(self, count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
        """Draw timesteps uniformly from the union of the zones."""
        covered = torch.cat([torch.arange(zone.start, zone.stop) for zone in self.zones])
        return covered[torch.randint(len(covered), (count,), generator=generator)]


def zones_from_borders(borders: Mapping[str, Sequence[int]], timesteps: int) -> Zones:
    """Return zones from ``{name: [start, stop]}``, as in base configs."""
    return Zones(tuple(Zone(name, start, stop) for name, (start, stop) in borders.items()), timesteps)


def equal_zones(count: int, timesteps: int) -> Zones:
    """Return N zones, zone i having the t with floor(t * N / T) = i (timestep-aware scaling, TuneQDM)."""
    if not 1 <= count <= timesteps:
        raise UserError(f"the number of zones must be in [1, {timesteps}], got {count}")
    starts = [-(-i * timesteps // count) for i in range(count + 1)]
    zones = tuple(Zone(f"part{i + 1}", starts[i], starts[i + 1]) for i in range(count))
    return Zones(zones, timesteps)
