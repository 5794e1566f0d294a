"""Strategies: which timesteps each scale set is trained on, and which set each timestep uses in sampling.

All are one class with different zones: the baseline has one zone of all timesteps, S1 the content zone, S2 one expert
per zone of the base, TAS equal zones (arXiv 2401.04339). A graded set is weaker the more noise there is (arXiv
2507.05964):

    strength(t) = least + (1 - least) (T - t) / T

Experts of shared first steps are one set until they branch. A wide set acts together with the expert of each zone.
Borders of the adaptive strategy are decided per subject, by the gradients of its photos before tuning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from quantbooth.runtime.errors import UserError
from quantbooth.timesteps.partition import partition
from quantbooth.timesteps.zones import Zone, Zones, equal_zones, zones_from_borders

__all__ = [
    "BASELINE",
    "Strategy",
    "Undecided",
    "adaptive",
    "baseline",
    "decided",
    "from_description",
    "graded",
    "s1",
    "s1s2",
    "s2",
    "s2_from_s1",
    "tas",
]

BASELINE = "baseline"


@dataclass(frozen=True)
class Undecided:
    """The measurement that decides the borders of a strategy.

    Attributes:
        bins: equal parts of the timesteps, from which zones are made.
        draws: of photo, noise and timestep in each bin.
    """

    bins: int
    draws: int


@dataclass(frozen=True)
class Strategy:
    """The training zones and the sampling zones of each set, and whether experts are trained in separate runs.

    Attributes:
        name: its name in tables.
        training_zones: set k is trained on zone k.
        sampling_zones: set k is used on zone k in sampling; timesteps outside all zones use the base (gain 1).
        separate_runs: train each expert in a separate run with the full number of steps, as in the paper's S2;
            otherwise all experts are trained in one run on timesteps drawn from all zones.
        least: the strength of a set towards t = T, in training and in sampling; None is full strength everywhere.
        shared_steps: the first optimizer steps, in which all experts of a run are trained as one set.
        wide: the timesteps of set 1, whose step from the base is added to that of the expert of the zone; set k + 1 is
            the expert of zone k. None is no such set.
        undecided: what decides the borders; until then zones are equal. None where they are fixed.
    """

    name: str
    training_zones: Zones
    sampling_zones: Zones
    separate_runs: bool = False
    least: float | None = None
    shared_steps: int = 0
    wide: Zone | None = None
    undecided: Undecided | None = None

    def __post_init__(self) -> None:
        if len(self.training_zones) != len(self.sampling_zones) or not len(self.training_zones):
            raise UserError(
                f"a strategy needs one serving zone for each of its {len(self.training_zones)} trained zones"
            )
        if self.least is not None and not 0 <= self.least < 1:
            raise UserError(f"strategy.least must be in [0, 1), got {self.least}; strategy=baseline is full strength")
        if self.shared_steps < 0:
            raise UserError(f"strategy.shared_steps must be 0 or more, got {self.shared_steps}")
        if self.wide is not None and not self._covers(self.wide):
            raise UserError(
                f"strategy.wide must be [start, stop] within the zones, got [{self.wide.start}, {self.wide.stop}]"
            )

    @property
    def sets(self) -> int:
        """The number of scale sets."""
        return len(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each set: that of its zone in sampling."""
        return (*([] if self.wide is None else [self.wide.name]), *self.sampling_zones.names)

    @property
    def runs(self) -> tuple[Zones, ...]:
        """The zones of each training run: one run for all experts, or one each."""
        if not self.separate_runs:
            return (self.training_zones,)
        return tuple(self.training_zones.named(name) for name in self.training_zones.names)

    def route(self, t: Shaped[Tensor, " b"]) -> Shaped[Tensor, "b *_sets"]:
        """Return what `chosen` does in sampling."""
        return self.chosen(self.sampling_zones, t)

    def chosen(self, zones: Zones, t: Shaped[Tensor, " b"]) -> Shaped[Tensor, "b *_sets"]:
        """Return the set of each timestep by zones (0 is the base), or its shares of all sets where they are not 1."""
        index = zones.index(t)
        if self.least is None and self.wide is None:
            return index
        shares = F.one_hot(index, len(zones) + 1)[:, 1:].float()
        if self.wide is not None:
            shares = torch.cat([((t >= self.wide.start) & (t < self.wide.stop))[:, None].float(), shares], dim=1)
        if self.least is not None:
            shares = shares * (self.least + (1 - self.least) * (1 - t.float() / zones.timesteps))[:, None]
        return shares

    def _covers(self, wide: Zone) -> bool:
        """Return whether each timestep of an interval is in a zone."""
        inside = 0 <= wide.start < wide.stop <= self.training_zones.timesteps
        return inside and bool((self.training_zones.index(torch.arange(wide.start, wide.stop)) > 0).all())

    @property
    def stretches(self) -> tuple[tuple[int, int, int], ...]:
        """(first timestep, timestep after the last, their set) over all timesteps, in ascending order.

        Raises:
            UserError: when a set has another strength at every timestep.
        """
        if self.least is not None:
            raise UserError(
                f"strategy {self.name} has another strength at every timestep, which float weights cannot hold; "
                "load what was tuned with quantbooth.load_pipeline"
            )
        if self.wide is not None:
            raise UserError(
                f"strategy {self.name} adds two sets up, which an export cannot do yet; load what was tuned with "
                "quantbooth.load_pipeline"
            )
        sets = self.route(torch.arange(self.sampling_zones.timesteps)).tolist()
        ends = [t for t in range(1, len(sets) + 1) if t == len(sets) or sets[t] != sets[t - 1]]
        return tuple((first, end, sets[first]) for first, end in zip([0, *ends], ends, strict=False))

    def describe(self) -> dict[str, object]:
        """Return JSON-compatible data for :func:`from_description`, stored with tuned scale sets."""

        def plain(zones: Zones) -> list[list[object]]:
            return [[zone.name, zone.start, zone.stop] for zone in zones.zones]

        return {
            "name": self.name,
            "timesteps": self.training_zones.timesteps,
            "trained": plain(self.training_zones),
            "served": plain(self.sampling_zones),
            "apart": self.separate_runs,
            **({} if self.least is None else {"least": self.least}),
            **({"shared_steps": self.shared_steps} if self.shared_steps else {}),
            **({} if self.wide is None else {"wide": [self.wide.name, self.wide.start, self.wide.stop]}),
        }


def from_description(description: Mapping[str, object]) -> Strategy:
    """Return the strategy of a description; the inverse of :meth:`Strategy.describe`."""
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
        None if (least := description.get("least")) is None else float(str(least)),
        int(str(description.get("shared_steps", 0))),
        zones([wide]).zones[0] if (wide := description.get("wide")) is not None else None,
    )


def baseline(timesteps: int) -> Strategy:
    """Return the strategy with one set for all timesteps."""
    everything = equal_zones(1, timesteps)
    return Strategy(BASELINE, everything, everything)


def graded(least: float, timesteps: int) -> Strategy:
    """Return the strategy with one set for all timesteps, whose strength falls with noise from 1 towards `least`."""
    everything = equal_zones(1, timesteps)
    return Strategy("graded", everything, everything, least=float(least))


def s1(interval: Sequence[int] | Sequence[Sequence[int]], outside: str, timesteps: int) -> Strategy:
    """Return the strategy with one set that is trained on the selected interval only (arXiv 2401.04339, S1).

    Args:
        interval: [start, stop) of the timesteps to train on, or several, whose union is the set's.
        outside: used for the other timesteps in sampling: ``base`` (gain 1) or ``tuned`` (the trained set); the paper
            does not say which it used.
        timesteps: T of the base.
    """
    several: Any = interval if isinstance(interval[0], Sequence) else [interval]
    intervals = [(int(start), int(stop)) for start, stop in several]
    for start, stop in intervals:
        if not 0 <= start < stop <= timesteps:
            raise UserError(
                f"strategy.interval must be [start, stop] with 0 <= start < stop <= {timesteps}, got [{start}, {stop}]"
            )
    for (start, stop), (after, end) in pairwise(intervals):
        if after < stop:
            raise UserError(
                f"strategy.interval must have intervals in ascending order that do not overlap, got [{start}, {stop}] "
                f"before [{after}, {end}]"
            )
    trained = Zones(tuple(Zone("selected", start, stop) for start, stop in intervals), timesteps)
    served = trained if outside == "base" else equal_zones(1, timesteps)
    return Strategy("s1", trained, served)


def s2(zones: Mapping[str, Sequence[int]], apart: bool, timesteps: int) -> Strategy:
    """Return the strategy with one expert per zone (arXiv 2401.04339, S2); separate runs give it another name."""
    trained = zones_from_borders(zones, timesteps)
    return Strategy("s2-apart" if apart else "s2", trained, trained, apart)


def s2_from_s1(zones: Mapping[str, Sequence[int]], shared_steps: int | None, steps: int, timesteps: int) -> Strategy:
    """Return S2 in one run whose experts are one set in the first steps, and branch from it.

    Args:
        zones: of the experts.
        shared_steps: optimizer steps with one set; None is half of them.
        steps: optimizer steps of the run.
        timesteps: T of the base.
    """
    shared_steps = steps // 2 if shared_steps is None else shared_steps
    if shared_steps > steps:
        raise UserError(f"strategy.shared_steps must be at most tuner.steps = {steps}, got {shared_steps}")
    trained = zones_from_borders(zones, timesteps)
    return Strategy("s2-from-s1", trained, trained, shared_steps=shared_steps)


def s1s2(zones: Mapping[str, Sequence[int]], wide: Sequence[int] | None, timesteps: int) -> Strategy:
    """Return S2 in one run with a wide set, whose step from the base is added to that of each zone's expert.

    Args:
        zones: of the experts.
        wide: [start, stop) of the wide set; None is all timesteps.
        timesteps: T of the base.
    """
    start, stop = (0, timesteps) if wide is None else wide
    if "wide" in zones:
        raise UserError("a zone of strategy.zones is named wide, as the wide set is; choose another name")
    trained = zones_from_borders(zones, timesteps)
    return Strategy("s1s2", trained, trained, wide=Zone("wide", start, stop))


def tas(count: int, timesteps: int) -> Strategy:
    """Return the strategy with N experts on equal zones, trained in one run (TuneQDM's timestep-aware scaling)."""
    zones = equal_zones(count, timesteps)
    return Strategy("tas", zones, zones)


def adaptive(count: int, bins: int, draws: int, apart: bool, timesteps: int) -> Strategy:
    """Return the strategy with one expert per zone, whose borders the gradients of a subject decide."""
    if not count <= bins <= timesteps:
        raise UserError(
            f"strategy.bins must be from strategy.count = {count} to base.timesteps = {timesteps}, got {bins}"
        )
    zones = equal_zones(count, timesteps)
    return Strategy("adaptive-apart" if apart else "adaptive", zones, zones, apart, undecided=Undecided(bins, draws))


def decided(strategy: Strategy, affinity: Float[Tensor, "n n"]) -> Strategy:
    """Return the strategy with zones of bins that agree (see `partition`), by the affinities of n equal bins."""
    timesteps, old = strategy.training_zones.timesteps, strategy.training_zones.zones
    bins, borders = equal_zones(len(affinity), timesteps).zones, partition(affinity, strategy.sets)
    zones = tuple(
        replace(zone, start=bins[first].start, stop=bins[end - 1].stop)
        for zone, first, end in zip(old, borders, borders[1:], strict=False)
    )
    return replace(
        strategy, training_zones=Zones(zones, timesteps), sampling_zones=Zones(zones, timesteps), undecided=None
    )
