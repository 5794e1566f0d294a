"""Which timesteps each method learned in, in words, and whether the methods of a study differ in that."""

import re

from quantbooth.reporting.claims import last
from quantbooth.reporting.study import Arm, Study
from quantbooth.timesteps.strategies import Strategy
from quantbooth.timesteps.zones import Zones

__all__ = ["differ", "learned_in", "strategies"]

UNNAMED = re.compile(r"selected|part\d+")
"""Names that zones have for want of one."""
ALL = "all"


def strategies(study: Study) -> dict[Arm, Strategy]:
    """The strategy of every tuned method, where its runs at the last step agree on one."""
    found = {}
    for arm in (arm for arm in study.arms if not arm.untuned):
        own = {result.strategy for result in study.at(arm, last(study, arm))}
        if len(own) == 1 and (strategy := own.pop()) is not None:
            found[arm] = strategy
    return found


def differ(found: dict[Arm, Strategy]) -> bool:
    """Whether two methods learned in, or are served in, different timesteps."""
    return len({(one.trained, one.served) for one in found.values()}) > 1


def learned_in(strategy: Strategy) -> str:
    """The intervals of training timesteps, and what serves the others."""
    learned = _listed(strategy.trained)
    text = f"learned in {learned}{'' if learned == ALL else ' of'} {strategy.trained.timesteps:,} timesteps"
    if strategy.apart:
        text += ", each interval in a run of its own"
    if strategy.served != strategy.trained:
        return f"{text}; serves {_listed(strategy.served)}"
    covered = sum(zone.stop - zone.start for zone in strategy.served.zones)
    return text if covered == strategy.served.timesteps else f"{text}; the base serves the others"


def _listed(zones: Zones) -> str:
    if [(zone.start, zone.stop) for zone in zones.zones] == [(0, zones.timesteps)]:
        return ALL
    return ", ".join(f"[{z.start}, {z.stop})" if UNNAMED.fullmatch(z.name) else str(z) for z in zones.zones)
