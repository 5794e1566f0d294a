"""How much of what was tuned is used in generated pictures: options of sampling, which need no tuning again.

The share s acts on the step from the untuned base, 1 + s (g - 1) for a gain g. It is one number, or a mapping

    {content: 0.8}                      by the zones of the strategy
    {354-934: 1, elsewhere: 0}          by intervals of timesteps, whatever set is used there

in which what is not named has the share of `elsewhere`, 1 without it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from quantbooth.runtime.errors import UserError
from quantbooth.timesteps.strategies import Strategy
from quantbooth.timesteps.zones import zones_from_borders
from quantbooth.tuning.tuner import Tuner

__all__ = ["Strength", "strength_of"]

Shares = Float[Tensor, " sets"]
ELSEWHERE = "elsewhere"
INTERVAL = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True)
class Strength:
    """The share s of the step from the untuned base to the tuned one.

    Attributes:
        share: s, for all experts, or by zone or interval.
        unconditional: s of the unconditional prediction of guidance, for all experts; None uses `share`. 0 is
            the untuned base, between 0 and 1 is steering guidance (arXiv 2508.00319).
        reward: the weight of the step from the untuned base's prediction to the tuned one; None is guidance by the
            tuned base.
    """

    share: float | Mapping[str, float] = 1.0
    unconditional: float | None = None
    reward: float | None = None

    @property
    def name(self) -> str:
        """What is added to the name of a method; empty for all of what was tuned."""
        if isinstance(self.share, Mapping):
            parts = [
                f"-{zone}{'x' if INTERVAL.fullmatch(zone) else ''}{share:.15g}"
                for zone, share in self.share.items()
                if share != (1 if zone == ELSEWHERE else self._elsewhere)
            ]
        else:
            parts = [] if self.share == 1 else [f"-x{self.share:.15g}"]
        parts += [f"-u{self.unconditional:.15g}"] if self.unconditional is not None else []
        return "".join([*parts, *([f"-r{self.reward:.15g}"] if self.reward is not None else [])])

    @property
    def content(self) -> dict[str, Any]:
        """Return the strength for identities; nothing for all of what was tuned."""
        share = dict(self.share) if isinstance(self.share, Mapping) else self.share
        reward = {} if self.reward is None else {"reward": self.reward}
        return {"strength": {"share": share, "unconditional": self.unconditional, **reward}} if self.name else {}

    @property
    def by_interval(self) -> bool:
        """Whether the share depends on the timestep beyond the set that is used there."""
        return any(INTERVAL.fullmatch(key) for key in self._named)

    def shares(self, strategy: Strategy) -> Shares:
        """Return s of each expert; 1 where intervals decide.

        Raises:
            UserError: for a zone that the strategy does not have, or zones and intervals together.
        """
        zones = strategy.names
        if not isinstance(self.share, Mapping):
            return torch.full((len(zones),), float(self.share))
        if ELSEWHERE in zones:
            raise UserError(f"strength cannot tell the zone {ELSEWHERE!r} from all others; give the zone another name")
        for zone in self._named:
            if zone not in zones and not self.by_interval:
                raise UserError(f"strength names the zone {zone!r}, {strategy.name} has {', '.join(zones)}")
            if self.by_interval and not INTERVAL.fullmatch(zone):
                raise UserError(f"strength names zones or intervals, not both; got {', '.join(self._named)}")
        if self.by_interval:
            return torch.ones(len(zones))
        return torch.tensor([float(self.share.get(zone, self._elsewhere)) for zone in zones])

    def route(self, strategy: Strategy) -> Callable[[Tensor], Tensor]:
        """Return the route of a strategy, with the share of the interval of each timestep.

        Raises:
            UserError: for an interval that is empty, overlaps another or lies beyond the timesteps.
        """
        if not self.by_interval:
            return strategy.route
        timesteps = strategy.sampling_zones.timesteps
        try:
            zones = zones_from_borders({key: _borders(key) for key in self._named}, timesteps)
        except UserError as error:
            raise UserError(f"strength: {error}") from error
        by_zone = torch.tensor([self._elsewhere, *(float(self._named[zone.name]) for zone in zones.zones)])

        def route(t: Tensor) -> Tensor:
            own = strategy.route(t)
            if not own.is_floating_point():
                own = torch.nn.functional.one_hot(own, strategy.sets + 1)[:, 1:].float()
            return own * by_zone.to(t.device)[zones.index(t)][:, None]

        return route

    def without_steps(self, strategy: Strategy, timesteps: Shaped[Tensor, " steps"]) -> list[str]:
        """Return the intervals that have a share of their own, and no timestep of a sampler that a set is used at."""
        used = timesteps[strategy.route(timesteps).reshape(len(timesteps), -1).any(dim=1)]
        own = [key for key, share in self._named.items() if self.by_interval and share != self._elsewhere]
        zones = {key: zones_from_borders({key: _borders(key)}, strategy.sampling_zones.timesteps) for key in own}
        return [key for key in own if not zones[key].index(used).any()]

    def of(self, strategy: Strategy, tuner: Tuner) -> tuple[Shares, Shares | None]:
        """Return s of each expert, and for the unconditional prediction; None where it is that of the other.

        Raises:
            UserError: as `shares` and `route`, and for a tuner whose weights cannot differ between rows of a batch.
        """
        shares = self.shares(strategy)
        self.route(strategy)
        if self.reward is not None and not tuner.has_base:
            raise UserError(
                f"reward_guidance={self.reward:g} needs the untuned base beside what was tuned: choose tuner=scales, "
                f"lora or qlora; {tuner.name} has overwritten it"
            )
        if self.reward is not None and self.unconditional is not None:
            raise UserError(
                f"reward_guidance={self.reward:g} is guided by the untuned base; leave out unconditional_strength, got "
                f"{self.unconditional:g}"
            )
        unconditional = None if self.unconditional is None else torch.full_like(shares, self.unconditional)
        same = unconditional is None or (torch.equal(unconditional, shares) and not self.by_interval)
        if not tuner.by_sample and (self.by_interval or not same):
            option = "strength by intervals" if self.by_interval else "unconditional_strength"
            raise UserError(
                f"{option} needs sets for each row of a batch: choose tuner=scales, lora or qlora with "
                f"tuner.identifier=false; {tuner.name} has one for all"
            )
        if self.by_interval and not same:
            raise UserError("unconditional_strength is one number for all timesteps; leave it out, or the intervals")
        return shares, None if same else unconditional

    @property
    def _named(self) -> dict[str, float]:
        if not isinstance(self.share, Mapping):
            return {}
        return {key: share for key, share in self.share.items() if key != ELSEWHERE}

    @property
    def _elsewhere(self) -> float:
        return float(self.share.get(ELSEWHERE, 1.0)) if isinstance(self.share, Mapping) else 1.0


def _borders(interval: str) -> list[int]:
    found = INTERVAL.fullmatch(interval)
    if found is None:
        raise ValueError(f"interval must be START-STOP, got {interval!r}")
    return [int(found[1]), int(found[2])]


def strength_of(settings: Mapping[str, Any]) -> Strength:
    """Return the strength that the options choose; an unconditional share that says the same of all is left out."""
    share, unconditional, reward = (settings[key] for key in ("strength", "unconditional_strength", "reward_guidance"))
    return Strength(share, None if reward is None and unconditional == share else unconditional, reward)
