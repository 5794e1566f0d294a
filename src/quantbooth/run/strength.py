"""How much of what was tuned is used in generated pictures: options of sampling, which need no tuning again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from quantbooth.runtime.errors import UserError
from quantbooth.timesteps.strategies import Strategy
from quantbooth.tuning.tuner import Tuner

__all__ = ["Strength", "strength_of"]

Shares = Float[Tensor, " sets"]


@dataclass(frozen=True)
class Strength:
    """The share s of the step from the untuned base to the tuned one, 1 + s (g - 1) for a gain g.

    Attributes:
        share: s, for all experts, or by the names of their zones; experts that are not named have 1.
        unconditional: s of the unconditional prediction of guidance, for all experts; None uses `share`. 0 is
            the untuned base, between 0 and 1 is steering guidance (arXiv 2508.00319).
    """

    share: float | Mapping[str, float] = 1.0
    unconditional: float | None = None

    @property
    def name(self) -> str:
        """What is added to the name of a method; empty for all of what was tuned."""
        if isinstance(self.share, Mapping):
            parts = [f"-{zone}{share:.15g}" for zone, share in self.share.items() if share != 1]
        else:
            parts = [] if self.share == 1 else [f"-x{self.share:.15g}"]
        return "".join([*parts, "" if self.unconditional is None else f"-u{self.unconditional:.15g}"])

    @property
    def content(self) -> dict[str, Any]:
        """Return the strength for identities; nothing for all of what was tuned."""
        share = dict(self.share) if isinstance(self.share, Mapping) else self.share
        return {"strength": {"share": share, "unconditional": self.unconditional}} if self.name else {}

    def shares(self, strategy: Strategy) -> Shares:
        """Return s of each expert.

        Raises:
            UserError: for a zone that the strategy does not have.
        """
        zones = strategy.names
        if not isinstance(self.share, Mapping):
            return torch.full((len(zones),), float(self.share))
        for zone in self.share:
            if zone not in zones:
                raise UserError(f"strength names the zone {zone!r}, {strategy.name} has {', '.join(zones)}")
        return torch.tensor([float(self.share.get(zone, 1.0)) for zone in zones])

    def of(self, strategy: Strategy, tuner: Tuner) -> tuple[Shares, Shares | None]:
        """Return s of each expert, and for the unconditional prediction; None where it is that of the other.

        Raises:
            UserError: as `shares`, and for a tuner whose weights cannot differ between rows of a batch.
        """
        shares = self.shares(strategy)
        unconditional = None if self.unconditional is None else torch.full_like(shares, self.unconditional)
        if unconditional is None or torch.equal(unconditional, shares):
            return shares, None
        if not tuner.by_sample:
            raise UserError(
                "unconditional_strength needs sets for each row of a batch: choose tuner=scales, lora or qlora with "
                f"tuner.identifier=false; {tuner.name} has one for all"
            )
        return shares, unconditional


def strength_of(settings: Mapping[str, Any]) -> Strength:
    """Return the strength that the options choose."""
    return Strength(settings["strength"], settings["unconditional_strength"])
