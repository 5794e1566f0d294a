"""Strategies: which timesteps are drawn in training, and which scale set serves which timestep.

All are the same object with other zones: the baseline has one zone that covers everything, S1 one zone for the content,
S2 one expert per zone of the base, TAS equal zones (arXiv 2401.04339).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from quantbooth.runtime.errors import UserError
from quantbooth.timesteps.zones import Zone, Zones, equal_zones, zones_from_borders

__all__ = ["Strategy", "baseline", "from_description", "s1", "s2", "tas"]


@dataclass(frozen=True)
class Strategy:
    """Zones to learn in, the zones each set serves when sampling, and how the experts are trained.

    Attributes:
        name: its name in tables.
        trained: zone k is where set k is trained.
        served: zone k is where set k is used for sampling; what no zone covers is served by the base (gain 1).
        apart: train one expert after the other, each with the full budget, as S2 was published; otherwise all experts
            learn in one run from timesteps drawn over all zones.
    """

    name: str
    trained: Zones
    served: Zones
    apart: bool = False

    def __post_init__(self) -> None:
        if len(self.trained) != len(self.served) or not len(self.trained):
            raise UserError(f"a strategy needs one serving zone for each of its {len(self.trained)} trained zones")

    @property
    def sets(self) -> int:
        """How many scale sets are kept."""
        return len(self.trained)

    @property
    def runs(self) -> tuple[Zones, ...]:
        """The zones of each training run: one run for all experts, or one each."""
        if not self.apart:
            return (self.trained,)
        return tuple(Zones((zone,), self.trained.timesteps) for zone in self.trained.zones)

    def route(self, t: Shaped[Tensor, " b"]) -> Int[Tensor, " b"]:
        """The set that serves each timestep when sampling; 0 is the base."""
        return self.served.index(t)

    @property
    def stretches(self) -> tuple[tuple[int, int, int], ...]:
        """(first timestep, timestep after the last, set that serves them) over all timesteps, in ascending order."""
        sets = self.route(torch.arange(self.served.timesteps)).tolist()
        ends = [t for t in range(1, len(sets) + 1) if t == len(sets) or sets[t] != sets[t - 1]]
        return tuple((first, end, sets[first]) for first, end in zip([0, *ends], ends, strict=False))

    def describe(self) -> dict[str, object]:
        """Plain data from which :func:`from_description` makes the same strategy; kept beside tuned scale sets."""

        def plain(zones: Zones) -> list[list[object]]:
            return [[zone.name, zone.start, zone.stop] for zone in zones.zones]

        return {
            "name": self.name,
            "timesteps": self.trained.timesteps,
            "trained": plain(self.trained),
            "served": plain(self.served),
            "apart": self.apart,
        }


def from_description(description: Mapping[str, object]) -> Strategy:
    """The inverse of :meth:`Strategy.describe`."""
    timesteps = int(str(description["timesteps"]))

    def zones(rows: object) -> Zones:
        if not isinstance(rows, list):
            raise UserError(f"a strategy's zones must be a list of [name, start, stop], got {rows!r}")
        return Zones(tuple(Zone(str(name), int(start), int(stop)) for name, start, stop in rows), timesteps)

    return Strategy(
        str(description["name"]),
        zones(description["trained"]),
        zones(description["served"]),
        bool(description["apart"]),
    )


def baseline(timesteps: int) -> Strategy:
    """One set, trained on and serving every timestep."""
    everything = equal_zones(1, timesteps)
    return Strategy("baseline", everything, everything)


def s1(interval: Sequence[int], outside: str, timesteps: int) -> Strategy:
    """One set trained on the selected interval only (arXiv 2401.04339, S1).

    Args:
        interval: [start, stop) of the timesteps to learn in.
        outside: what serves the other timesteps when sampling: ``base`` (gain 1) or ``tuned`` (the trained set); the
            paper does not say which it used.
        timesteps: T of the base.
    """
    if outside not in ("base", "tuned"):
        raise UserError(f"strategy.outside must be base or tuned, got {outside!r}")
    trained = zones_from_borders({"selected": interval}, timesteps)
    served = trained if outside == "base" else equal_zones(1, timesteps)
    return Strategy("s1", trained, served)


def s2(zones: Mapping[str, Sequence[int]], apart: bool, timesteps: int) -> Strategy:
    """One expert set per zone of the base (arXiv 2401.04339, S2); trained apart it is another row of a table."""
    trained = zones_from_borders(zones, timesteps)
    return Strategy("s2-apart" if apart else "s2", trained, trained, apart)


def tas(count: int, timesteps: int) -> Strategy:
    """One expert per N-th of the timesteps, all learning in one run (TuneQDM's timestep-aware scaling)."""
    zones = equal_zones(count, timesteps)
    return Strategy("tas", zones, zones)
